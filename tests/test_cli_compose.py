"""Every preset composes; whatever is not a setting is refused with one line that names it."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path

import pytest

from runner.cli.command import parse
from runner.cli.compose import CONF, compose, presets
from runner.cli.keys import groups, known_keys
from runner.config import EngineKind, RunnerConfig
from runner.errors import ConfigError

GENERATE = ("job=generate", "input.path=rows.jsonl")


def refusal(*arguments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose([*GENERATE, *arguments])
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("group", "option"), [(group, option) for group, options in presets().items() for option in options]
)
def test_every_preset_composes(group: str, option: str) -> None:
    arguments = dict.fromkeys(("job=generate", f"{group}={option}", "input.path=rows.jsonl"))
    assert isinstance(compose(arguments), RunnerConfig)


def test_every_pair_of_job_and_engine_composes() -> None:
    for job, engine in itertools.product(presets()["job"], presets()["engine"]):
        config = compose([f"job={job}", f"engine={engine}", "input.path=rows.jsonl"])
        assert (config.job.name, config.engine.kind) == (job, EngineKind(engine))


def test_every_folder_of_conf_is_a_section_of_the_schema() -> None:
    assert {path.name for path in CONF.iterdir() if any(path.glob("*.yaml"))} <= groups()


def test_a_job_chooses_presets_and_the_command_line_overrules_it() -> None:
    assert compose(["job=synthetic_data"]).sampling.temperature == 0.8
    config = compose(["job=synthetic_data", "sampling=greedy", "sampling.max_tokens=7"])
    assert (config.sampling.temperature, config.sampling.max_tokens) == (0.0, 7)


def test_the_result_is_plain_python() -> None:
    config = compose([*GENERATE, "input.path=[a,b]", "job.chat_template_kwargs={deep: {x: 1}}"])
    assert type(config.input.path) is list
    assert config.job.chat_template_kwargs == {"deep": {"x": 1}}
    assert type(config.job.chat_template_kwargs["deep"]) is dict


def test_the_folder_is_named_after_the_job() -> None:
    assert compose([*GENERATE, "job.name=facts"]).output.dir == "outputs/facts"
    assert compose([*GENERATE, "output.dir=/tmp/x"]).output.dir == "/tmp/x"


def test_backslash_n_is_a_newline_in_every_setting_that_is_text() -> None:
    config = compose(
        [
            *GENERATE,
            r'sampling.stop=["\n\n","User:"]',
            r'sampling.bad_words=["a\n"]',
            r'job.template="{{ a }}\n{{ b }}"',
            r'job.system_prompt="x\ny"',
        ]
    )
    assert (config.sampling.stop, config.sampling.bad_words) == (["\n\n", "User:"], ["a\n"])
    assert (config.job.template, config.job.system_prompt) == ("{{ a }}\n{{ b }}", "x\ny")


def test_free_form_keys_need_no_plus() -> None:
    for sign in ("", "+", "++"):
        config = compose([*GENERATE, f"{sign}job.chat_template_kwargs.enable_thinking=false"])
        assert config.job.chat_template_kwargs == {"enable_thinking": False}


@pytest.mark.parametrize("sign", ["", "+", "++", "~"])
@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("sampling.temprature", "sampling.temperature"),
        ("temperature", "sampling.temperature"),
        ("max_token", "sampling.max_tokens"),
        ("sampling.max_model_len", "engine.max_model_len"),
        ("engine.block_sise", "engine.block_size"),
        ("jib", "job"),
        ("hydra.run.dir", "output.dir"),
    ],
)
def test_an_unknown_key_names_the_nearest(sign: str, typo: str, meant: str) -> None:
    message = refusal(f"{sign}{typo}=1")
    assert typo in message
    assert f"did you mean {meant}?" in message


@pytest.mark.parametrize("sign", ["", "+", "++"])
def test_an_unknown_key_inside_a_dict_is_refused(sign: str) -> None:
    message = refusal(f"{sign}sampling={{temprature: 1}}")
    assert "sampling" in message


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("sampling.max_tokens=abc", ("sampling.max_tokens=abc", "int")),
        ("sampling.max_tokens=1.5", ("sampling.max_tokens=1.5", "int")),
        ("sampling.stop=abc", ("sampling.stop=abc", "[a,b]")),
        ("sampling.stop_token_ids=[1,a]", ("sampling.stop_token_ids=[1,a]: 'a' is not an integer", "list[int]")),
        ("sampling.stop_token_ids=[[1]]", ("sampling.stop_token_ids: an item of its list is a list", "list[int]")),
        ("sampling.stop=[[a]]", ("sampling.stop: an item of its list is a list", "list[str]")),
        ("sampling.stop=[{a: 1}]", ("sampling.stop: an item of its list is a dict", "list[str]")),
        ("sampling.top_p=x", ("sampling.top_p=x: 'x' is not a number", "float")),
        ("engine.kind=vllm", ("engine.kind=vllm", "transformers", "echo")),
        ("job.name=null", ("job.name=null", "null")),
        ("engine=vllm", ("engine=vllm", "echo, transformers")),
        ("job=generat", ("job=generat", "did you mean generate?")),
        ("model=Qwen/Qwen3-8B", ("model=Qwen/Qwen3-8B", "model.path=")),
        ("resume=x", ("resume=x",)),
        ("job.name=a,b", ("job.name=a,b", "[a,b]")),
        ("~sampling.top_p", ("~sampling.top_p", "sampling.top_p=null is its default")),
        ("~sampling.n", ("~sampling.n", "sampling.n=1 is its default")),
        ("~job", ("~job", "leave it out")),
        ("input.limit=0", ("input.limit=0", "1 or more")),
        ("+sampling.top_p=1", ("+sampling.top_p=1", "without the +")),
        ("synthetic_data", ("did you mean job=synthetic_data?",)),
        ("sampling.top_p", ("sampling.top_p=...",)),
        ("--multirun", ("--multirun", "--help")),
        ("input.path=${oc.env:NO_SUCH_VARIABLE}", ("input.path", "NO_SUCH_VARIABLE")),
        ("model@x=smollm2", ("model@x",)),
    ],
)
def test_a_bad_argument_is_one_line_with_the_key_and_the_fix(argument: str, parts: tuple[str, ...]) -> None:
    message = refusal(argument)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        ("Write about {{topic}}", """'job.template="Write about {{topic}}"'"""),
        ("a=b", """'job.template="a=b"'"""),
        ('say "hi" {x}', r"""'job.template="say \"hi\" {x}"'"""),
    ],
)
def test_a_value_that_does_not_parse_shows_its_quoted_form(value: str, quoted: str) -> None:
    assert quoted in refusal(f"job.template={value}")


def test_a_list_whose_quotes_the_shell_took_shows_them_again() -> None:
    shown = refusal("launch.sbatch=[--qos=low, --constraint=h100]").partition("all of it: ")[2]
    (argument,) = shlex.split(shown)
    assert compose([*GENERATE, argument]).launch.sbatch == ["--qos=low", "--constraint=h100"]
    assert "all of it" not in refusal("job.template=[say: {x}]")


def test_the_quoted_form_works() -> None:
    config = compose([*GENERATE, r'job.template="say \"hi\" = {{ x }}"'])
    assert config.job.template == 'say "hi" = {{ x }}'


@pytest.mark.parametrize(
    "argument",
    [
        "model.token=hf_abcdef",
        "+hf_token=hf_abcdef",
        "++model.api_key=hf_abcdef",
        "job.chat_template_kwargs.password=hf_abcdef",
        "job.chat_template_kwargs={user: {auth_token: hf_abcdef}}",
    ],
)
def test_a_secret_is_refused_and_not_echoed(argument: str) -> None:
    message = refusal(argument)
    assert "environment" in message
    assert "hf_abcdef" not in message


@pytest.mark.parametrize(
    "argument",
    ["model._target_=os.system", "+_target_=os.system", "job.chat_template_kwargs={x: {_target_: os.system}}"],
)
def test_target_is_refused(argument: str) -> None:
    assert "_target_" in refusal(argument)


@pytest.mark.parametrize(("arguments", "key"), [([], "job"), (["job=generate"], "input.path")])
def test_what_is_missing_is_named(arguments: list[str], key: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key} is missing: give {key}="):
        compose(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["sampling.top_p=0"],
        ["sampling.top_p=1.5"],
        ["sampling.temperature=-1"],
        ["sampling.temperature=nan"],
        ["sampling.top_k=-2"],
        ["sampling.n=0"],
        ["sampling.min_tokens=9", "sampling.max_tokens=8"],
        ["sampling.n=2", "sampling.temperature=0"],
        ['sampling.stop=[""]'],
        ["sampling.logit_bias={x: 1}"],
        ["sampling.logit_bias={5: 1000}"],
        ["sampling.logit_bias={5: [1]}"],
        ['sampling.bad_words=[""]'],
        ["sampling.logprobs=21"],
        ["sampling.repetition_stop=2"],
        ["engine.max_num_seqs=0"],
        ["engine.max_num_batched_tokens=10", "engine.max_num_seqs=20"],
        ["engine.gpu_memory_utilization=1.1"],
        ["output.rows_per_shard=0"],
        ["output.max_error_rate=5"],
        ["output.dir=s3://bucket/x"],
        ["output.dir=''"],
        ["output.keep_prompt=messages", "job.chat=false"],
        ["job.name=a/b"],
        ["job.name=" + "x" * 300],
        ["job.name=" + "\u00e9" * 101],
        ["output.dir=" + "x" * 300],
        ["job.name=.."],
        ["job.template=a", "job.template_file=b"],
        ["job.system_prompt=a", "job.chat=false"],
        ["job.chat_template_kwargs={a: 1}", "job.chat=false"],
        ["model.trust_remote_code=true"],
        ["model.adapter=a", "model.load_format=dummy"],
        ["partition=2/2"],
        ["partition=1"],
    ],
)
def test_an_impossible_combination_names_its_key(arguments: list[str]) -> None:
    message = refusal(*arguments)
    assert message.startswith(tuple(argument.partition("=")[0] for argument in arguments))


def test_presets_of_ones_own_stand_beside_the_built_in_ones(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "mine.yaml").write_text("name: mine\nsystem_prompt: Be brief.\n")
    command = parse([f"--config-dir={tmp_path}", "job=mine", "input.path=x"])
    assert command.config is not None
    assert command.config.job.system_prompt == "Be brief."


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("name: mine\nsistem_prompt: Be brief.\n", "did you mean job.system_prompt?"),
        ("name: mine\nchat: perhaps\n", "job.chat takes bool"),
        ("name: mine\nchat_template_kwargs: {api_key: x}\n", "HF_TOKEN"),
        ("name: [mine\n", "YAML"),
        ("name: mine\ndefaults:\n  - override /input@_global_.input: nowhere\n", "nowhere"),
    ],
)
def test_a_bad_preset_is_one_line_too(tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        parse([f"--config-dir={tmp_path}", "job=mine", "input.path=x"])
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_help_names_every_key_and_preset() -> None:
    text = parse(["--help"]).text
    assert text is not None
    for name in (*known_keys(), *itertools.chain(*presets().values())):
        assert name in text


def test_every_setting_has_help_and_a_tier() -> None:
    for key in known_keys().values():
        assert key.help, key.name
        assert key.tier in ("output", "runtime"), key.name


def test_cfg_prints_what_composes_to_the_same(tmp_path: Path) -> None:
    text = parse(["--cfg", *GENERATE, "sampling.n=3"]).text
    assert text is not None
    assert "'n': 3" in text
