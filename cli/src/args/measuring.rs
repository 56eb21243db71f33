//! What `eval` and `merge --sweep` share.

use clap::Args;
use cpift_model::score::Scoring;

use super::new_tokens;

/// How rows that are measured are read, and answers judged.
#[derive(Debug, Args)]
pub struct MeasuringArguments {
    /// How the files are read: a key of a recipe's [[task]], as in `columns.prompt=question`, `chat=false`,
    /// `eval_limit=100`. May be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Leave out rows that cannot be used, and say how many, instead of stopping at the first.
    #[arg(long)]
    pub skip_invalid: bool,
    /// Also generate answers and count those that are right.
    #[arg(long)]
    pub generate: bool,
    /// When an answer is right: exact, contains, number, choice, json or regex:PATTERN; exact when not given.
    #[arg(long, value_name = "KIND", requires = "generate")]
    pub score: Option<Scoring>,
    /// Most tokens of an answer; 8 more than the longest of the file when not given, and from 256 on unless the score is
    /// exact.
    #[arg(long, value_name = "N", requires = "generate", value_parser = new_tokens)]
    pub max_new_tokens: Option<usize>,
}
