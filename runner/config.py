"""The schema of every setting. Values live in conf/; this file holds names, types and tiers only.

Each field is either *output-affecting* (part of the fingerprint: a change between restarts is refused,
key by key) or *runtime* (free to change between restarts).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any

from omegaconf import MISSING


def affects(default: Any = None, help: str = "", **kwargs: Any) -> Any:
    """A setting that changes what is written."""
    return _setting("output", default, help, **kwargs)


def runtime(default: Any = None, help: str = "", **kwargs: Any) -> Any:
    """A setting that changes how fast or where, never what."""
    return _setting("runtime", default, help, **kwargs)


def _setting(tier: str, default: Any, help: str, **kwargs: Any) -> Any:
    metadata = {"tier": tier, "help": help}
    if callable(default):
        return field(default_factory=default, metadata=metadata, **kwargs)
    return field(default=default, metadata=metadata, **kwargs)


class EngineKind(Enum):
    """Which engine runs: the real one or the stand-in that needs no model."""

    transformers = "transformers"
    echo = "echo"


class Dtype(Enum):
    """auto is float32 on a CPU and the checkpoint's own on CUDA."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Device(Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class LoadFormat(Enum):
    """dummy fills the model with random weights: for timing any shape without its checkpoint."""

    auto = "auto"
    dummy = "dummy"


class InputFormat(Enum):
    auto = "auto"
    jsonl = "jsonl"
    parquet = "parquet"
    arrow = "arrow"
    csv = "csv"
    tsv = "tsv"


class KeepPrompt(Enum):
    """What is kept of the prompt beside each completion."""

    none = "none"
    prompt = "prompt"
    messages = "messages"


@dataclass
class JobConfig:
    """What to ask and how to read the answer."""

    name: str = affects(MISSING, "Names the job and its output folder, outputs/<name>")
    kind: str = affects("generate", "The registered job that renders prompts and parses answers")
    module: str | None = affects(None, "Your own Python file: prompt(row), parse(row, completion)")
    template: str | None = affects(None, "A Jinja template over the row's columns; \\n means a newline")
    template_file: str | None = affects(None, "The same, read from a file")
    few_shot_file: str | None = affects(None, "JSONL rows that the template sees as the list `examples`")
    chat: bool = affects(True, "Apply the model's chat template; false completes raw text")
    system_prompt: str | None = affects(None, "A system message before every conversation; \\n means a newline")
    chat_template_kwargs: dict[str, Any] = affects(dict, "Passed to the chat template, e.g. {enable_thinking: false}")
    truncate_prompt: bool = affects(False, "Cut a prompt that is too long instead of quarantining its row")


@dataclass
class ModelSettings:
    """Which model, and how its weights are loaded."""

    path: str = affects(MISSING, "A hub id, a local folder or a .gguf file")
    revision: str | None = affects(None, "The hub revision")
    adapter: str | None = affects(None, "A LoRA adapter, merged at load (needs peft)")
    dtype: Dtype = affects(Dtype.auto, "auto: float32 on CPU, the checkpoint's own on CUDA")
    device: Device = runtime(Device.auto, "auto: cuda where there is one")
    load_format: LoadFormat = affects(LoadFormat.auto, "dummy: random weights of the model's shape")
    trust_remote_code: bool = affects(False, "Run code that the model's repository brings; needs a pinned revision")


@dataclass
class InputConfig:
    """Where the rows come from."""

    path: Any = affects(MISSING, "A file, a glob, s3://..., dataset:NAME?split=train, or a list of them")
    format: InputFormat = affects(InputFormat.auto, "auto: by file name")
    limit: int | None = affects(None, "Only the first N rows")
    columns: list[str] = affects(list, "Read and keep only these columns; default: all")
    prompt_column: str = affects("prompt", "The column that holds the prompt")
    messages_column: str = affects("messages", "The column that holds a conversation")
    prompt_token_ids_column: str = affects("prompt_token_ids", "The column that holds a prompt as token ids")
    sampling_column: str | None = affects("sampling_params", "The column of a row's own sampling; null: rows have none")


@dataclass
class SamplingConfig:
    """vLLM's names. null takes the model's generation_config.json, then the default in the help."""

    max_tokens: int = affects(1024, "Longest answer, in tokens")
    min_tokens: int = affects(0, "No end before this many tokens")
    temperature: float | None = affects(None, "0 is greedy; default 1.0")
    top_p: float | None = affects(None, "Default 1.0 (off)")
    top_k: int | None = affects(None, "0 or -1 is off; default off")
    min_p: float | None = affects(None, "Default 0.0 (off)")
    n: int = affects(1, "Samples per prompt")
    seed: int | None = affects(None, "The seed of every request's first sample; default: made of seed and the row's id")
    stop: list[str] = affects(list, "Stop strings; \\n means a newline")
    stop_token_ids: list[int] = affects(list, "Token ids that end an answer")
    ignore_eos: bool = affects(False, "Go on to max_tokens")
    repetition_penalty: float | None = affects(None, "Default 1.0 (off)")
    presence_penalty: float = affects(0.0, "Per token that already stands in the answer")
    frequency_penalty: float = affects(0.0, "Per occurrence in the answer")
    logit_bias: dict[Any, Any] = affects(dict, "Token id to a number from -100 to 100, added to its logit: {50256: -5}")
    bad_words: list[str] = affects(list, "Words never written, with or without a space before them")
    logprobs: int | None = affects(None, "Column of each token's log probability and the N best; N up to 20")
    repetition_stop: int = affects(0, "Stop once an exact cycle covers this many tokens, 3 or more; 0 is off")
    skip_special_tokens: bool = affects(True, "Leave special tokens out of the text")
    include_stop_str_in_output: bool = affects(False, "Keep the stop string in the text")


@dataclass
class EngineConfig:
    """How the work is batched. All runtime, but for what decides which rows fit."""

    kind: EngineKind = affects(EngineKind.transformers, "echo: a stand-in without a model")
    max_num_seqs: int = runtime(1024, "Most sequences in one step")
    max_num_batched_tokens: int | None = runtime(None, "Most tokens in one step; default: 16384, on a CPU 8192")
    max_model_len: int | None = affects(None, "Longest prompt + answer; default: the model's")
    gpu_memory_utilization: float = runtime(0.9, "Share of the card that weights, cache and work space may take")
    cpu_kv_cache_gib: float = runtime(2.0, "KV cache on a CPU, in GiB")
    block_size: int = runtime(16, "Tokens per KV block")
    num_kv_blocks: int | None = runtime(None, "KV blocks; default: measured")
    enable_prefix_caching: bool = runtime(True, "Reuse the KV blocks of shared prompt beginnings")
    overlap_prefill: bool | None = runtime(None, "Prompts beside rows (async, not deterministic); default: H100, H200")
    async_batching: bool = runtime(True, "Prepare step N+1 while N computes; false takes turns")
    enforce_eager: bool = runtime(False, "No compile, no CUDA graphs")
    compile: bool = runtime(True, "torch.compile on CUDA")
    deterministic: bool = affects(False, "The same bits on every run: one batch shape, no preemption, no prefix reuse")


@dataclass
class OutputConfig:
    """Where and how the results are written."""

    dir: str | None = runtime(None, "A local or shared folder; default outputs/<job.name>")
    rows_per_shard: int = affects(1000, "Input rows per part file")
    sync_seconds: float = runtime(10.0, "Most seconds of finished work that a kill can lose")
    lease_seconds: float = runtime(120.0, "Without a sign of life for so long, a process loses its ranges to others")
    overwrite: bool = runtime(False, "Start over: the old output is removed first")
    max_error_rate: float = runtime(0.05, "Stop (exit 3) when more rows than this share fail")
    max_error_rate_after: int = runtime(200, "Rows before max_error_rate counts")
    keep_prompt: KeepPrompt = affects(KeepPrompt.prompt, "none, prompt (the rendered text) or messages")
    column_prefix: str = affects("", "Goes before every column that the runner adds")


@dataclass
class ResumeConfig:
    accept: list[str] = runtime(list, "Names of changed settings to accept, e.g. [job.code]")
    max_idle_attempts: int | None = runtime(None, "For a loop of restarts: exit 1 after so many that finished no row")


@dataclass
class RerunConfig:
    """Does some lines of a finished job again, under other sampling settings if need be; all others stay."""

    finish_reason: list[str] = runtime(list, "Answers that ended so: [length] with a higher sampling.max_tokens")
    error_code: list[str] = runtime(list, "Rows and samples in errors/ with these codes; [any] takes all")


@dataclass
class CostConfig:
    """What the machine costs and can do: for estimates and reports only."""

    card: str = runtime("h100", "The card that estimates are for; an unknown one is refused with those known")
    num_cards: int = runtime(1, "How many of them share the work, each with its own partition")
    dollars_per_gpu_hour: float | None = runtime(None, "Turns hours into dollars")


@dataclass
class GuardConfig:
    """The quality of the latest answers. Without a limit, a bad rate is a warning; over a limit the run stops (exit 3).

    Each rate is over the last `window` answers, and counts from as many on.
    """

    window: int = runtime(200, "Latest answers that a rate is taken over")
    max_truncated: float | None = runtime(None, "Stop when more than this share ends at max_tokens")
    max_empty: float | None = runtime(None, "Stop when more than this share says nothing")
    max_repeated: float | None = runtime(None, "Stop when more than this share ends in a loop")
    max_duplicate: float | None = runtime(None, "Stop when more than this share equals an earlier answer")
    max_unparsed: float | None = runtime(None, "Stop when the job can read nothing in more than this share")


@dataclass
class MetricsConfig:
    seconds: float = runtime(5.0, "Between two lines of .runner/metrics/; 0 writes none")
    port: int | None = runtime(None, "Serve the figures to Prometheus on this port, 0 for a free one; needs the extra")
    address: str = runtime("127.0.0.1", "Where the port listens; 0.0.0.0 lets other machines ask")


@dataclass
class PreviewConfig:
    rows: int = runtime(3, "Rows that python -m runner.preview shows")


@dataclass
class PreflightConfig:
    rows: int | None = runtime(10000, "Rows that python -m runner.preflight reads, spread evenly; null reads all")
    measured: str | None = runtime(None, "The output folder of an earlier run to learn from; default: output.dir")


@dataclass
class ProfileConfig:
    rows: int = runtime(64, "Requests that python -m runner.profile runs, from the beginning of the input")
    steps: int = runtime(200, "Most steps that it runs in each mode")
    dir: str | None = runtime(None, "Where its files go; default outputs/profile/<job.name>")


@dataclass
class LaunchConfig:
    """Where the processes run that share the work."""

    kind: str = runtime("none", "none, local, slurm, ray: a file of runner/launch/")
    array: int = runtime(1, "How many tasks share the work (slurm, ray)")
    max_running: int | None = runtime(None, "How many of them run at a time (slurm)")
    gpus: str = runtime("auto", "local: processes, one a GPU; slurm, ray: GPUs of each task, 0 for none")
    cpus: int | None = runtime(None, "CPU cores of each task (slurm, ray); default: what the cluster gives")
    memory: str | None = runtime(None, "Memory of each task, such as 64G (slurm)")
    time: str | None = runtime(None, "Time limit of each task, such as 4:00:00 (slurm); at it a task is requeued")
    end_time: float | None = runtime(None, "When the process must end, seconds since 1970; Slurm says it by itself")
    partition: str | None = runtime(None, "Slurm's partition")
    account: str | None = runtime(None, "Slurm's account")
    sbatch: list[str] = runtime(list, "More #SBATCH options, each quoted: ['--qos=low','--constraint=h100']")
    setup: list[str] = runtime(list, "Shell lines before the task, such as ['module load cuda']")
    after: str | None = runtime(None, "Slurm job to wait for; it must end well")
    chain: list[str] = runtime(list, "Command lines after it: ['job=generate job.name=judge input.path=...']")
    leases: bool = runtime(True, "Hand out ranges as tasks get free; false splits them evenly beforehand")
    dry_run: bool = runtime(False, "Print what would be submitted and do nothing")
    task: str | None = runtime(None, "Names this process in python -m runner.status; launchers set it")


@dataclass
class RunnerConfig:
    """The whole configuration of a run."""

    job: JobConfig = field(default_factory=JobConfig)
    model: ModelSettings = field(default_factory=ModelSettings)
    input: InputConfig = field(default_factory=InputConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    resume: ResumeConfig = field(default_factory=ResumeConfig)
    rerun: RerunConfig = field(default_factory=RerunConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    cost: CostConfig = field(default_factory=CostConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    preview: PreviewConfig = field(default_factory=PreviewConfig)
    preflight: PreflightConfig = field(default_factory=PreflightConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    seed: int = affects(0, "The run's seed")
    partition: str = runtime("0/1", "w/W: this process runs the ranges of partition w of W; auto: those that are free")


def settings(config: Any, tier: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of every setting of one tier: "output" or "runtime"."""
    for item in fields(config):
        key, value = f"{prefix}{item.name}", getattr(config, item.name)
        if is_dataclass(value):
            yield from settings(value, tier, key + ".")
        elif item.metadata.get("tier") == tier:
            yield key, value.value if isinstance(value, Enum) else value
