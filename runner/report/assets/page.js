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

function matches(sample, words) {
  if (finish.value && sample.finish !== finish.value) return false;
  if (state.value && !sample.states.includes(state.value)) return false;
  return words.every((word) => sample.hay.includes(word));
}

// The text with each found word in a mark of its own.
function marked(text, words) {
  const pre = make("pre");
  if (!words.length) { pre.textContent = text; return pre; }
  const low = text.toLowerCase();
  let at = 0;
  while (low.length === text.length) {
    const next = words.map((word) => [low.indexOf(word, at), word.length]).filter(([i]) => i >= 0);
    if (!next.length) break;
    const [start, length] = next.reduce((a, b) => (b[0] < a[0] ? b : a));
    pre.append(text.slice(at, start), make("mark", "", text.slice(start, start + length)));
    at = start + length;
  }
  pre.append(text.slice(at));
  return pre;
}

function card(sample, words) {
  const box = make("article", "sample");
  const head = make("p");
  head.append(make("span", "tag", sample.title));
  for (const tag of sample.tags) head.append(make("span", "tag", tag));
  for (const name of sample.states) head.append(make("span", "tag warn", name));
  const pair = make("div", "pair");
  for (const [title, text] of [["Prompt", sample.prompt], [sample.answerTitle, sample.answer]]) {
    const side = make("div");
    side.append(make("h3", "soft", title), marked(text, words));
    pair.append(side);
  }
  box.append(head, pair);
  if (sample.parsed) box.append(make("h3", "soft", "Read out of it"), marked(sample.parsed, words));
  return box;
}

function draw() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = samples.filter((sample) => matches(sample, words));
  list.replaceChildren(...found.slice(0, shown).map((sample) => card(sample, words)));
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
