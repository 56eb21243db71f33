//! The commands and their arguments.

pub mod bench;
pub mod compare;
pub mod cores;
pub mod data;
pub mod export;
pub mod generate;
pub mod inspect;
pub mod measuring;
pub mod merge;
pub mod sweep;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use self::measuring::MeasuringArguments;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use cpift_model::recipe::{MOST_NEW_TOKENS, MOST_SHOTS, Precision, Stage};

/// More threads than any machine has cores: beyond, a typing error.
const MOST_THREADS: usize = 4096;

/// Multi-task fine-tuning of language models that does not trade one task for another.
#[derive(Debug, Parser)]
#[command(name = "cpift-engine", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Threads of the CPU; as many as there are cores when not given.
    ///
    /// The same recipe with the same number of threads gives the same bits.
    #[arg(long, global = true, value_name = "N", value_parser = threads)]
    pub threads: Option<NonZeroUsize>,
    /// Say more: which fields of config.json are not read, as transformers does not read them.
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    the job failed
  2    the input was wrong: one line names the file, line or key, and what to do
  130  stopped by Ctrl-C or a signal; `train --resume` continues";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a recipe: tasks and a model folder in, one better model folder out
    #[command(long_about = TRAIN_ABOUT, after_long_help = TRAIN_EXAMPLES)]
    Train(Train),
    /// Run a recipe beside the usual methods and merges, over several seeds, and print one table
    #[command(long_about = compare::ABOUT, after_long_help = compare::EXAMPLES)]
    Compare(compare::Compare),
    /// One run of a comparison, started by `compare`
    #[command(hide = true)]
    CompareUnit(compare::CompareUnit),
    /// Measure a model on files: loss, and how many of its answers are right
    #[command(long_about = EVAL_ABOUT, after_long_help = EVAL_EXAMPLES)]
    Eval(Eval),
    /// Let a model answer a prompt, a file of prompts, or a person in a conversation
    #[command(long_about = generate::ABOUT, after_long_help = generate::EXAMPLES)]
    Generate(generate::Generate),
    /// Look at the rows of task files as training will see them
    #[command(long_about = data::ABOUT, after_long_help = data::EXAMPLES)]
    Data(data::Data),
    /// Look at a model folder: family, sizes, tokens, chat template, and what it takes to train it
    #[command(long_about = inspect::ABOUT, after_long_help = inspect::EXAMPLES)]
    Inspect(inspect::Inspect),
    /// Merge models of any architecture into one, streamed from disk
    #[command(long_about = merge::ABOUT, after_long_help = merge::EXAMPLES)]
    Merge(merge::Merge),
    /// Find which parameters each fine-tune of a model moved most, and how these cores overlap
    #[command(long_about = cores::ABOUT, after_long_help = cores::EXAMPLES)]
    Cores(cores::Cores),
    /// Write what a fine-tune changed, or a core of it, as a folder that can be shared
    #[command(long_about = export::ABOUT, after_long_help = export::EXAMPLES)]
    Export(export::Export),
    /// Put a delta that `export` wrote into its base: the fine-tune again, bit for bit
    #[command(long_about = export::APPLY_ABOUT, after_long_help = export::APPLY_EXAMPLES)]
    Apply(export::Apply),
    /// Check a recipe and its files, and print what training would take; trains nothing
    #[command(long_about = PLAN_ABOUT)]
    Plan(Plan),
    /// Write a run's tables and charts as one HTML page, and as SVG, CSV and JSON
    #[command(long_about = REPORT_ABOUT, after_long_help = REPORT_EXAMPLES)]
    Report(Report),
    /// Measure how fast this machine computes
    #[command(subcommand)]
    Bench(bench::Bench),
    /// List the devices that can compute here, and why others cannot
    Devices(Devices),
    /// Print the completions of a shell
    #[command(after_long_help = COMPLETIONS_EXAMPLES)]
    Completions(Completions),
}

const TRAIN_ABOUT: &str = "\
Run a recipe: tasks and a model folder in, one better model folder out.

A recipe is a TOML file that names a base model (a Hugging Face folder, also that of a LoRA adapter, or a model on the \
hub) and some tasks (files of rows). \
The least one:

    [model]
    base = \"my-model\"
    [[task]]
    name = \"code\"
    train = \"code.jsonl\"
    eval = \"code.eval.jsonl\"
    [train]
    epochs = 1

A row of a data file is {\"prompt\", \"completion\"}, {\"messages\": […]}, {\"conversations\": […]}, \
{\"question\", \"answer\"}, {\"instruction\", \"input\", \"output\"} or {\"text\"}, or has the columns that \
[task.columns] or the templates prompt and answer of a task name; the loss is taken on answers only. \
Files are JSON Lines, a JSON array, CSV, TSV or text (.txt, of which every paragraph is a row with `text` and `lines`), \
also compressed with gzip or zstd, or Parquet; `data` shows their rows as training will see them. \
Control strings in rows other than messages are the tokens they stand for, unless the task says special_tokens = \"escape\".

A model on the hub is base = \"org/name\" or \"org/name@revision\", where there is no such folder; data there is \
train = \"hf://datasets/org/name/FILE\" (also org/name@revision/FILE, and patterns). What is missing of it in the \
cache of huggingface_hub is fetched: configuration, tokenizer and chat templates, the card and licences, data, and the \
safetensors last; nothing else. HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are read as \
huggingface_hub reads them, and SSL_CERT_FILE. run.json names the commits (recipe.toml the folders of the cache), and \
--resume takes the same.

The method `cpift` goes through five stages:

    probe      one fine-tune per task: which parameters does it move?
    core       the most important parameters of each task (1 %)
    group      tasks whose cores overlap are put together
    fuse       cores are transplanted, the rest is interpolated (SLERP)
    integrate  a short mixed fine-tune; cores of earlier groups are frozen

The methods `joint`, `sequential`, `staged`, `replay` and `half` are the usual ways, to compare with. \
A task's score says when an answer to its eval rows is right (see `eval --help`); [evaluate] measures also while a \
model is trained, and can keep the best weights. A [[measure]], of `name` and `eval`, has rows that are measured and never \
trained: what the training costs in what no task asks for.

Several GPUs train one run with --gpus N on one machine, and where torchrun, srun or mpirun starts a process for each: \
the micro-batches of a step, train.accumulate, are dealt to them. On CPUs this needs mpirun or srun and a build with MPI. \
docs/ranks.md says more.

Everything is checked before the first step: files, keys, shapes, memory, space on disk. \
Ctrl-C (or SIGTERM) finishes the step, writes a checkpoint and says how to continue; twice stops at once. \
A run that was stopped or killed goes on with --resume to the same bits as one that never was. What it goes by is \
the content of recipe and files, not where they lie: run folder and project can be moved. Stages of another run, \
and files edited or changed since, are refused by name; what is removed is made again. model.dtype (until the \
final model is written), checkpoint.every, checkpoint.keep and metrics.tensorboard may be set otherwise, and \
[evaluate] where it neither keeps the best weights nor has patience.";

const TRAIN_EXAMPLES: &str = "\
Examples:
  cpift-engine train recipe.toml
  cpift-engine train recipe.toml --set seed=2 --out runs/second
  cpift-engine train recipe.toml --set method=joint --out runs/joint
  cpift-engine train recipe.toml --until fuse
  cpift-engine train recipe.toml --resume
  cpift-engine train recipe.toml --out runs/apart --probe code
  cpift-engine train recipe.toml --out runs/apart --resume

Files written into the run folder:
  recipe.toml     the recipe with every default filled in; can be run itself
  inputs.json     every file the run reads, with its hash, for --resume
  identity.json   hash of the recipe's settings, for --resume
  run.json        what was planned, and every process that worked on it: version, device, date
  metrics.jsonl   every optimizer step
  scores.json answers.json   what was measured, and some answers
  tensorboard/    the same for TensorBoard, with --tensorboard
  probe/ core/ groups.json fused/    what the stages found
  final/          the model, a folder that `transformers` loads, with its card (README.md)
  report.md       every task before and after (report.json for programs)
Tokenized data is kept for later runs in ~/.cache/cpift-engine.

Progress goes to standard error, the closing table to standard output.

Exit codes: 0 done, 1 the job failed, 2 the input was wrong, 130 stopped.";

/// `train`.
#[derive(Debug, Args)]
pub struct Train {
    /// The recipe, and what overrides it.
    #[command(flatten)]
    pub recipe: RecipeArguments,
    /// Run folder; runs/NAME when not given, where NAME is the recipe's file name (or its folder's when
    /// the file is called recipe.toml).
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub out: Option<PathBuf>,
    /// Continue an unfinished run after its last whole checkpoint.
    #[arg(long)]
    pub resume: bool,
    /// Also write every step to event files of TensorBoard, in the folder tensorboard of the run folder; the same as
    /// `--set metrics.tensorboard=true`.
    #[arg(long)]
    pub tensorboard: bool,
    /// Stop after this stage.
    #[arg(long, value_name = "STAGE", value_parser = stage())]
    pub until: Option<Stage>,
    /// Train on so many GPUs of this machine, each with a process of its own: the micro-batches of a step, train.accumulate, are
    /// dealt to them (docs/ranks.md). They speak by NCCL, which has to be installed.
    #[arg(long, value_name = "N", value_parser = positive, conflicts_with = "probe")]
    pub gpus: Option<usize>,
    /// How several processes share the probes (docs/ranks.md): `rows` trains one after the other, the rows of each step dealt to
    /// all; `tasks` has each train other probes by itself, without anything to send; `auto` is `tasks` where there is a probe for
    /// each of them. What follows is shared by rows in any case. With `tasks` the run folder has to be on a file system that all
    /// processes share.
    #[arg(long, value_name = "HOW", value_enum, default_value_t, conflicts_with = "probe")]
    pub parallel: Parallel,
    /// Make the probe of this task and nothing else, beside processes that make others of the same run, on this machine or
    /// on others that share the run folder. What such a process has begun of it is continued. When all probes are there, --resume
    /// without --probe goes on with them, and trains those that are missing.
    #[arg(long, value_name = "NAME", conflicts_with = "until")]
    pub probe: Option<String>,
}

/// How several processes share the probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Parallel {
    /// All train the same.
    #[default]
    Rows,
    /// Each trains others.
    Tasks,
    /// By tasks where there is a probe for each process.
    Auto,
}

/// What `train` and `plan` share.
#[derive(Debug, Args)]
pub struct RecipeArguments {
    /// The recipe, a TOML file; paths in it are relative to it.
    #[arg(value_name = "RECIPE", value_hint = ValueHint::FilePath)]
    pub path: PathBuf,
    /// Override a setting, as in `train.steps=100`, `task[0].weight=2`, `task.NAME.weight=2`; paths are relative
    /// to the current folder. May be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Where to compute.
    #[command(flatten)]
    pub device: DeviceArgument,
}

/// Where to compute.
#[derive(Debug, Args)]
pub struct DeviceArgument {
    /// Where to compute: `auto` (a GPU where there is one), `cpu` or `cuda:N`; in builds with `--features emulator`
    /// also `emulated` or `emulated:9.0` (for tests). See `cpift-engine devices`.
    ///
    /// The environment variable CPIFT_HOPPER=off makes an H100 or H200 compute without the kernels that are for it
    /// alone.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
}

/// What is computed in.
#[derive(Debug, Args)]
pub struct PrecisionArgument {
    /// Number type to compute in: `auto` is bf16 on a GPU and on a CPU with AMX, f32 elsewhere.
    #[arg(long, value_name = "TYPE", value_parser = precision(), default_value = "auto")]
    pub precision: Precision,
}

/// A choice by the names that recipes have for it, each with its help.
fn choice<T: Copy + Send + Sync + 'static, const N: usize>(
    choices: [T; N],
    name: fn(T) -> &'static str,
    help: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    let values = choices.map(|choice| PossibleValue::new(name(choice)).help(help(choice)));
    PossibleValuesParser::new(values).try_map(move |text| {
        choices.into_iter().find(|choice| name(*choice) == text).ok_or("there is no such choice")
    })
}

fn precision() -> impl TypedValueParser<Value = Precision> {
    choice(Precision::ALL, Precision::name, |precision| match precision {
        Precision::Auto => "bf16 on a GPU and on a CPU with AMX, f32 elsewhere",
        Precision::F32 => "32-bit floats",
        Precision::Bf16 => {
            "16-bit brain floats, with f32 sums; on GPUs, and on CPUs with AMX or AVX-512 BF16"
        }
    })
}

fn stage() -> impl TypedValueParser<Value = Stage> {
    choice(Stage::ALL, Stage::name, |stage| match stage {
        Stage::Probe => "One fine-tune per task",
        Stage::Core => "The most important parameters of each task",
        Stage::Group => "Tasks put together by overlap",
        Stage::Fuse => "One model from all",
        Stage::Integrate => "Mixed fine-tune with frozen cores",
    })
}

const EVAL_ABOUT: &str = "\
Measure a model on files: loss, and how many of its answers are right.

The loss is the mean negative log-likelihood in nats per supervised token. With --generate the model also answers \
every prompt greedily, and the answers that are right are counted. When an answer is right, --score says:

    exact      it is the file's answer, white space around it left out
    contains   it contains the file's answer as whole words; case does not count
    number     the numbers are equal (18, 18.00, $18, 36/2): the one behind the first ####, else the last
    choice     it names the same letter (A, (A), Answer: A); beside it `by loss`, the option of the lowest loss
    json       it is JSON that says the same, in a block of code or not
    regex:P    the pattern P finds the same in both: its first group, else the whole match

Options are the lines A. …, B) … of a prompt, else the letters that the file has as answers. Reasoning up to </think> \
does not count, except for exact. A file's answer that cannot be compared with is an error.

Files and rows are of the forms that `train --help` names, and are read as a task that sets nothing reads them. --set \
gives them keys of a [[task]] of a recipe, and so --shots-from: columns.prompt and so on, the templates prompt, answer and \
system, chat, learn, special_tokens, eval_limit, skip_invalid.

--answers writes a line of JSON for every row, and --json prints one document with every row on standard output:
  {\"files\": [{\"path\", \"loss\", \"tokens\", \"score_kind\", \"score\", \"exact_match\", \"choice_by_loss\",
              \"rows\": [{\"loss\", \"tokens\", \"file\", \"row\", \"prompt\", \"reference\", \"answer\",
                        \"expected\", \"found\", \"right\", \"exact\", \"cut\", \"right_by_loss\"}]}]}
`file` and `row`, the number of the line or row in it, say where a row stands. \
`expected` and `found` are what is compared of reference and answer, `cut` says that an answer was as long as it may be. \
exact_match is the share of answers that are the file's whatever --score is.";

const EVAL_EXAMPLES: &str = "\
Examples:
  cpift-engine eval runs/seesaw/final --data sort.jsonl code.jsonl --generate
  cpift-engine eval my-model --data code.jsonl --json > scores.json
  cpift-engine eval my-model --data code.jsonl --max-length 512
  cpift-engine eval my-model --data code.jsonl --generate --score number --answers answers.jsonl
  cpift-engine eval my-model --data code.eval.jsonl --shots 4 --shots-from code.train.jsonl
  cpift-engine eval my-model --data riddles.csv --set columns.prompt=q --set columns.answer=a
  cpift-engine eval my-model --data riddles.csv --set \"prompt={{q}}\" --set \"answer={{a}}\"";

/// `eval`.
#[derive(Debug, Args)]
pub struct Eval {
    /// The model's folder, or its name on the hub: org/name or org/name@revision.
    #[arg(value_name = "MODEL", value_hint = ValueHint::DirPath)]
    pub model: PathBuf,
    /// Files of rows, as for training: JSON Lines, a JSON array, CSV, TSV or text (.txt), also compressed, or Parquet;
    /// on the hub hf://datasets/org/name/FILE.
    #[arg(long, value_name = "FILE", required = true, num_args = 1.., value_hint = ValueHint::FilePath)]
    pub data: Vec<PathBuf>,
    /// Leave out rows of more tokens, as a recipe with this `model.max_length` does, and say how many. When not given, rows
    /// of any length are measured, and one longer than the model's positions is an error.
    #[arg(long, value_name = "N", value_parser = positive, conflicts_with = "shots_from")]
    pub max_length: Option<usize>,
    /// Cut such rows instead, as a recipe with `model.truncate = true` does.
    #[arg(long, requires = "max_length")]
    pub truncate: bool,
    /// How rows are read and answers judged.
    #[command(flatten)]
    pub measuring: MeasuringArguments,
    /// Write every row's prompt, reference, answer and whether it is right into this file, a line of JSON each.
    #[arg(long, value_name = "FILE", requires = "generate", value_hint = ValueHint::FilePath)]
    pub answers: Option<PathBuf>,
    /// Put so many rows of --shots-from before every row as examples, the same ones before all.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "shots_from", value_parser = shots)]
    pub shots: usize,
    /// Where the examples are taken from: the file the task is trained on; on the hub hf://datasets/org/name/FILE.
    #[arg(long, value_name = "FILE", requires = "shots", value_hint = ValueHint::FilePath)]
    pub shots_from: Option<PathBuf>,
    /// Seed of the choice of examples; a recipe's seed chooses the same.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// What to compute in.
    #[command(flatten)]
    pub precision: PrecisionArgument,
    /// Where to compute.
    #[command(flatten)]
    pub device: DeviceArgument,
}

const PLAN_ABOUT: &str = "\
Check a recipe and its files, and print what training would take; trains nothing.

Prints the parameters, each task's rows and tokens, what about the rows needs a look, the steps of every training, the \
memory by part, the space the run folder takes, what is measured between stages and by [evaluate], and an estimate of time from a short measurement \
of this machine's matrix products. `data` shows the rows themselves. A model on the hub is fetched with its weights.";

/// `plan`.
#[derive(Debug, Args)]
pub struct Plan {
    /// The recipe, and what overrides it.
    #[command(flatten)]
    pub recipe: RecipeArguments,
    /// Print JSON instead of tables.
    #[arg(long)]
    pub json: bool,
    /// Plan for so many processes that train together (docs/ranks.md): what each of them takes.
    #[arg(long, value_name = "N", value_parser = positive, default_value = "1")]
    pub ranks: usize,
    /// The same for so many GPUs, each with a process of its own, of which this machine needs to have one.
    #[arg(long, value_name = "N", value_parser = positive, conflicts_with = "ranks")]
    pub gpus: Option<usize>,
}

const REPORT_ABOUT: &str = "\
Write a run's tables and charts as one HTML page, and as SVG, CSV and JSON.

The page needs nothing else: no network, no scripts. It shows every task before and after, the losses of every training, \
learning rate and gradient norm, where the cores sit and how they overlap, the angles of fusion, what was frozen, and \
what was run on what. A run that is not complete is reported as far as it has come. The folder of a comparison becomes \
methods by tasks with intervals, ablations, overlaps and forgetting. The folders that `cores` and `merge --sweep` wrote are reported again.";

const REPORT_EXAMPLES: &str = "\
Examples:
  cpift-engine report runs/seesaw
  cpift-engine report runs/seesaw --out seesaw.html --figures paper/figures";

/// `report`.
#[derive(Debug, Args)]
pub struct Report {
    /// The run folder, or the folder of a comparison.
    #[arg(value_name = "RUN", value_hint = ValueHint::DirPath)]
    pub run: PathBuf,
    /// The page; report.html in the run folder when not given.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub out: Option<PathBuf>,
    /// Folder of the charts (SVG) and data (CSV, JSON); report in the run folder when not given.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub figures: Option<PathBuf>,
}

/// `devices`.
#[derive(Debug, Args)]
pub struct Devices {
    /// Print JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  cpift-engine completions bash > /etc/bash_completion.d/cpift-engine
  cpift-engine completions zsh > ~/.zfunc/_cpift-engine
  cpift-engine completions fish > ~/.config/fish/completions/cpift-engine.fish";

/// `completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell.
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

fn threads(text: &str) -> Result<NonZeroUsize, String> {
    let number = text.parse().ok().filter(|number: &NonZeroUsize| number.get() <= MOST_THREADS);
    number.ok_or_else(|| format!("use a whole number from 1 to {MOST_THREADS}"))
}

fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&number| number > 0).ok_or_else(|| "use a whole number from 1 on".to_owned())
}

fn new_tokens(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=MOST_NEW_TOKENS).contains(number));
    number.ok_or_else(|| format!("use a whole number from 1 to {MOST_NEW_TOKENS}"))
}

fn shots(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (0..=MOST_SHOTS).contains(number));
    number.ok_or_else(|| format!("use a whole number from 0 to {MOST_SHOTS}"))
}

fn seconds(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| (0.0..=3600.0).contains(number));
    number.ok_or_else(|| "use a number from 0 to 3600".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_argument_has_a_help_text() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments().filter(|argument| argument.get_id() != "help") {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
            for subcommand in command.get_subcommands() {
                assert!(subcommand.get_about().is_some(), "{}", subcommand.get_name());
                check(subcommand);
            }
        }
        check(&Arguments::command());
    }
}
