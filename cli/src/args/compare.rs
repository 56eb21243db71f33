//! Arguments of `compare`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::{DeviceArgument, RecipeArguments};

/// What the command does.
pub const ABOUT: &str = "\
Run a recipe, the usual methods and the usual merges on its tasks, over several seeds, and print one table.

Two budgets stand side by side: equal optimizer steps in all, and specialists given, where only the steps after them \
count. Every task is scored between the base (0) and its own specialist (1); figures over seeds are means with 95 % \
intervals (Student's t). What a [[measure]] of the recipe says, which is never trained, stands in a table of its own: the \
change of its loss and score against the base.

Methods:   cpift cpift-delta cpift-dare joint sequential staged replay half, and the merges average arithmetic
           ties dare dare-ties stitch, each also with stage 4 after it (ties+tune)
Ablations: cores importance fusion freezing data grouping fraction threshold order, `stage 4`, split (shorter
           probes, a longer stage 4), scale (λ of the merges), learning-rate (of every method that trains) and
           momentum (less of it, at several rates), or all

[evaluate] of the recipe is part of every run where it decides what a run ends with (keep = \"best\", patience): then all \
methods choose by the same rows, and scores lie between base and specialists. It is said what that adds to compute. \
Elsewhere it is left out, since it takes time and changes no result.

Every run is a process of its own. Runs that several rows share, the specialists above all, are made once. Ctrl-C \
stops all runs with a checkpoint; --resume goes on. The same command with --resume, started a second time beside the \
first, takes over some of the runs.";

/// Examples, and the files it writes.
pub const EXAMPLES: &str = "\
Examples:
  cpift-engine compare recipe.toml
  cpift-engine compare recipe.toml --quick
  cpift-engine compare recipe.toml --methods cpift,joint --ablations fraction,freezing --seeds 5
  cpift-engine compare recipe.toml --ablations all --forgetting --out study --resume
  cpift-engine compare recipe.toml --rows \"joint,cpift,no stage 4\" --against joint
  cpift-engine compare recipe.toml --methods none --probe-lengths 5,20,80 --out lengths

Files written into the folder:
  results.json   everything, for programs
  table.md       the table
  runs/ outcomes/ logs/    every run, what came out of it, what it said";

/// `compare`.
#[derive(Debug, Args)]
pub struct Compare {
    /// The recipe, and what overrides it; its method and seed are set by the comparison.
    #[command(flatten)]
    pub recipe: RecipeArguments,
    /// Folder of the comparison; runs/NAME-compare when not given.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub out: Option<PathBuf>,
    /// Continue an unfinished comparison, add rows to a finished one, or help one that runs.
    #[arg(long)]
    pub resume: bool,
    /// Number of seeds, from the recipe's on; 3, or 1 with --quick.
    #[arg(long, value_name = "N", value_parser = seeds)]
    pub seeds: Option<u64>,
    /// One seed of the methods, no ablations, no forgetting: a first look.
    #[arg(long, conflicts_with_all = ["ablations", "rows", "forgetting", "probe_lengths"])]
    pub quick: bool,
    /// Methods to run, separated by commas, or `none`; all when not given.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub methods: Vec<String>,
    /// Families of ablations to run, separated by commas, or `all`.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub ablations: Vec<String>,
    /// Rows by the names they have in the table, separated by commas, in the place of --methods and --ablations.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', conflicts_with_all = ["methods", "ablations"])]
    pub rows: Vec<String>,
    /// The row that all others are compared with, seed by seed; cpift when not given.
    #[arg(long, value_name = "NAME")]
    pub against: Option<String>,
    /// Train every pair of tasks one after the other, in five ways, and measure what is forgotten.
    #[arg(long)]
    pub forgetting: bool,
    /// Also measure every task's probe after each of these numbers of steps, ascending and separated by commas: how
    /// cores agree between seeds, tasks and lengths, by seven measures of importance. All at one learning rate. Takes
    /// about 32 bytes a parameter more of the host's memory.
    #[arg(long, value_name = "STEPS", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..))]
    pub probe_lengths: Vec<u64>,
    /// Of each of these probes also transplant these shares of the parameters, chosen by every measure and at random,
    /// into the base, and measure the loss; for example 0.01,0.1.
    #[arg(long, value_name = "SHARES", value_delimiter = ',', value_parser = share, requires = "probe_lengths")]
    pub transplants: Vec<f64>,
    /// Runs side by side; as many as there are cores for --threads each (1 unless given) when not given. The
    /// results do not depend on it.
    #[arg(long, value_name = "N", value_parser = super::threads)]
    pub jobs: Option<NonZeroUsize>,
    /// Keep the models of all runs; otherwise only the specialists' are kept.
    #[arg(long)]
    pub keep_models: bool,
    /// Print the whole comparison as JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// `compare-unit`: one run of a comparison, started by it.
#[derive(Debug, Args)]
pub struct CompareUnit {
    /// Folder of the comparison.
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// The run.
    #[arg(value_name = "ID")]
    pub id: String,
    /// Keep the run's models.
    #[arg(long)]
    pub keep_models: bool,
    /// Where to compute.
    #[command(flatten)]
    pub device: DeviceArgument,
}

fn share(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| *number > 0.0 && *number <= 1.0);
    number.ok_or_else(|| "use a share above 0 and up to 1, such as 0.01".to_owned())
}

fn seeds(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| (1..=1000).contains(number));
    number.ok_or_else(|| "use a whole number from 1 to 1000".to_owned())
}
