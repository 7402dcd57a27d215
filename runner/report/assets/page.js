"use strict";
// Every text of the data is set as textContent: nothing of it is ever read as markup.
const PAGE_SIZE = 25;
const samples = JSON.parse(document.getElementById("samples").textContent);
const search = document.getElementById("search");
const finish = document.getElementById("finish");
const state = document.getElementById("state");
const list = document.getElementById("list");
const more = document.getElementById("more");
const count = document.getElementById("count");
let shown = PAGE_SIZE;

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function matches(sample, phrase) {
  if (finish.value && sample.finish !== finish.value) return false;
  if (state.value && !sample.states.includes(state.value)) return false;
  return sample.hay.includes(phrase);
}

// The text with the phrase marked wherever it stands; a text whose length changes in lower case stays unmarked.
function marked(text, phrase) {
  const pre = make("pre");
  const low = text.toLowerCase();
  let at = 0;
  for (let start; phrase && low.length === text.length && (start = low.indexOf(phrase, at)) >= 0; ) {
    pre.append(text.slice(at, start), make("mark", "", text.slice(start, start + phrase.length)));
    at = start + phrase.length;
  }
  pre.append(text.slice(at));
  return pre;
}

function card(sample, phrase) {
  const box = make("article", "sample");
  const head = make("p");
  head.append(make("span", "tag", sample.title));
  for (const tag of sample.tags) head.append(make("span", "tag", tag));
  for (const name of sample.states) head.append(make("span", "tag warn", name));
  const pair = make("div", "pair");
  for (const [title, text] of [["Prompt", sample.prompt], [sample.answerTitle, sample.answer]]) {
    const side = make("div");
    side.append(make("h3", "soft", title), marked(text, phrase));
    pair.append(side);
  }
  box.append(head, pair);
  if (sample.parsed) box.append(make("h3", "soft", "Read out of it"), marked(sample.parsed, phrase));
  return box;
}

function draw() {
  const phrase = search.value.trim().toLowerCase();
  const found = samples.filter((sample) => matches(sample, phrase));
  list.replaceChildren(...found.slice(0, shown).map((sample) => card(sample, phrase)));
  count.textContent = `${found.length} of ${samples.length}`;
  more.hidden = found.length <= shown;
}

function start() {
  for (const sample of samples) {
    sample.hay = [sample.title, sample.prompt, sample.answer, sample.parsed, ...sample.tags].join("\n").toLowerCase();
  }
  for (const [select, values] of [[finish, samples.map((s) => s.finish)], [state, samples.flatMap((s) => s.states)]]) {
    for (const value of [...new Set(values)].filter(Boolean).sort()) {
      const option = make("option", "", value);
      option.value = value;
      select.append(option);
    }
  }
  for (const control of [search, finish, state]) {
    control.addEventListener("input", () => { shown = PAGE_SIZE; draw(); });
  }
  more.addEventListener("click", () => { shown += PAGE_SIZE; draw(); });
  draw();
}

start();
