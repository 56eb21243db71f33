//! `data`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// What `data --help` begins with.
pub const ABOUT: &str = "\
Look at the rows of task files as training will see them.

Prints for every task what its files hold: rows, tokens, supervised tokens, the lengths of rows as quantiles and as a \
histogram, rows that max_length cuts or leaves out, rows that cannot be used and why, rows that occur twice, and some \
rows as the model reads them: the part that is learnt is green (underlined with NO_COLOR, between \u{27e6} and \u{27e7} \
elsewhere).

Given a recipe it reads the recipe's tasks and measures with their settings; given data files it needs --model for the tokenizer and \
the chat template. The rows are those that training and evaluation get: cut to max_length, and with the examples of \
`shots` before them; lengths are those before cutting. Nothing but the tokenizer is read of the model, and with `shots` \
its config.json.

Files may be JSON Lines, a JSON array, CSV, TSV or text (.txt), also compressed with gzip or zstd, or Parquet. Of a text \
every paragraph is a row: `text` is all of it, `lines` the list of its lines. Empty lines separate paragraphs.";

/// What `data --help` ends with.
pub const EXAMPLES: &str = "\
Examples:
  cpift-engine data recipe.toml
  cpift-engine data recipe.toml --task code --rows 10
  cpift-engine data code.jsonl --model my-model
  cpift-engine data code.jsonl --model my-model --set task[0].limit=5 --json";

/// `data`.
#[derive(Debug, Args)]
pub struct Data {
    /// A recipe (a file whose name ends in .toml), or data files; on the hub hf://datasets/org/name/FILE.
    #[arg(value_name = "RECIPE|FILE", required = true, num_args = 1.., value_hint = ValueHint::FilePath)]
    pub inputs: Vec<PathBuf>,
    /// Folder of the model whose tokenizer and chat template are taken, or its name on the hub (org/name, of which the
    /// weights are not fetched); with a recipe its own base when not given.
    #[arg(long, value_name = "MODEL", value_hint = ValueHint::DirPath)]
    pub model: Option<PathBuf>,
    /// Only the recipe's task or measure of this name.
    #[arg(long, value_name = "NAME")]
    pub task: Option<String>,
    /// Rows of every file to show.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub rows: usize,
    /// Override a setting of the recipe, or one of the files' (`task[0].chat=true`, `model.max_length=2048`). May be
    /// given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Print JSON instead of text.
    #[arg(long)]
    pub json: bool,
}
