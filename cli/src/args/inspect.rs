//! `inspect`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// What `inspect --help` begins with.
pub const ABOUT: &str = "\
Look at a model folder: family, sizes, tokens, chat template, and what it takes to train it.

Reads configuration, tokenizer and the headers of the weights, not the weights themselves; a model on the hub is fetched \
with its weights all the same. A model that cannot be \
trained here is one line that says why, and exit code 2. Fields of config.json that are listed as not read are those \
that the family's class in transformers does not read either.";

/// What `inspect --help` ends with.
pub const EXAMPLES: &str = "\
Examples:
  cpift-engine inspect my-model
  cpift-engine inspect my-model --json";

/// `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Folder of the model, or its name on the hub: org/name or org/name@revision.
    #[arg(value_name = "MODEL", value_hint = ValueHint::DirPath)]
    pub model: PathBuf,
    /// Print JSON instead of text.
    #[arg(long)]
    pub json: bool,
}
