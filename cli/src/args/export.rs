//! `export` and `apply`.

use std::path::PathBuf;

use clap::builder::TypedValueParser;
use clap::{Args, ValueHint};
use cpift_model::checkpoint::WeightType;
use cpift_model::export::Others;
use cpift_model::merge::DEFAULT_SHARD_BYTES;

use super::choice;
use super::merge::{bytes, dtype};

/// What `export --help` begins with.
pub const ABOUT: &str = "\
Write what a fine-tune changed, as a folder that can be shared in its place.

    delta  the values that changed and where they belong; `apply` puts them into the same base, and the model is there again \
bit for bit. With --fraction or --core only a core: the model's values in it, the base's elsewhere
    lora   an adapter as PEFT loads it: of every linear layer's update θ − θ0 the product of rank --rank nearest to it, by its singular values. Norms, embeddings and other modules that changed are stored as a whole (modules_to_save); biases of linear layers, experts of a mixture and what else an adapter does not take are left out and named. report.json and report.md say what is lost of each tensor

Models are read as they lie on the disk, of any architecture and size: tensors are matched by name, and a piece of one is in \
memory at a time (lora: one tensor). Each tensor's places are a list, a mask or none (all its elements), whichever takes the least bytes.";

/// What `export --help` ends with.
pub const EXAMPLES: &str = "\
Examples:
  cpift-engine export --base my-model my-tune --as delta --out delta
  cpift-engine export --base my-model my-tune --as delta --fraction 0.01 --out delta
  cpift-engine export --base my-model my-tune --as delta --core cores --out delta
  cpift-engine export --base my-model my-tune --as lora --rank 8 --out adapter
  cpift-engine export --base my-model my-tune --as lora --others leave --dtype bf16 --out adapter

Files written as a delta:
  delta.safetensors   of a tensor NAME the changed elements, NAME.values, in its type; and where they are: NAME.indices,
                      ascending, or NAME.mask, of which bit j % 64 of word j / 64 is element j, or neither where all changed
  delta.json          the base by name, and of every tensor the hashes of the base's bytes and of what they become
  config.json         the model's, and beside it those of its tokenizer's files that are not the base's
  manifest.json       length and hash of every file

Files written as an adapter: adapter_config.json, adapter_model.safetensors, report.json, report.md, manifest.json. The base is named there as it was given: a name on the hub, or the folder's path.

Exit codes: 0 done, 1 failed, 2 the input was wrong, 130 stopped.";

/// What `apply --help` begins with.
pub const APPLY_ABOUT: &str = "\
Put a delta, as `export` writes it, into its base: the fine-tune is there again, bit for bit.

Every byte of the base is compared with what the delta was made from. Another base, also another version of it or its weights \
in another type, is refused, and nothing is written.";

/// What `apply --help` ends with.
pub const APPLY_EXAMPLES: &str = "\
Examples:
  cpift-engine apply delta --base my-model --out my-tune-again

Files written: model.safetensors (or shards with an index), config.json, the tokenizer's files and licences, manifest.json.

Exit codes: 0 done, 1 failed, 2 the input was wrong, 130 stopped.";

/// What an update is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Values and places.
    Delta,
    /// Products of thin matrices.
    Lora,
}

/// `export`.
#[derive(Debug, Args)]
pub struct Export {
    /// The fine-tune, a folder or a name on the hub.
    #[arg(value_name = "MODEL", value_hint = ValueHint::DirPath)]
    pub model: PathBuf,
    /// The model that it is a fine-tune of.
    #[arg(long, value_name = "BASE", value_hint = ValueHint::DirPath)]
    pub base: PathBuf,
    /// What its update is written as.
    #[arg(long = "as", value_name = "FORM", value_parser = form())]
    pub form: Form,
    /// delta: only this share of the parameters, those that moved furthest, as by `cores`.
    #[arg(long, value_name = "SHARE", conflicts_with = "core")]
    pub fraction: Option<f64>,
    /// delta: only the parameters of this core, a file of masks of `cores` or of a run, or a folder with one such file.
    #[arg(long, value_name = "MASK", value_hint = ValueHint::AnyPath)]
    pub core: Option<PathBuf>,
    /// lora: columns of the thin matrices; 16 when not given.
    #[arg(long, value_name = "R")]
    pub rank: Option<usize>,
    /// lora: what becomes of changed tensors that are no weights of linear layers; save when not given.
    #[arg(long, value_name = "HOW", value_parser = others())]
    pub others: Option<Others>,
    /// lora: type of the thin matrices; f32 when not given.
    #[arg(long, value_name = "TYPE", value_parser = dtype())]
    pub dtype: Option<WeightType>,
    /// Folder of what is written, which must not exist or be empty.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub out: PathBuf,
    /// Print the report as JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

/// `apply`.
#[derive(Debug, Args)]
pub struct Apply {
    /// The folder of the delta.
    #[arg(value_name = "DELTA", value_hint = ValueHint::DirPath)]
    pub delta: PathBuf,
    /// The model that it was made from, a folder or a name on the hub.
    #[arg(long, value_name = "BASE", value_hint = ValueHint::DirPath)]
    pub base: PathBuf,
    /// Folder of the model, which must not exist or be empty.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub out: PathBuf,
    /// Most bytes of a file of weights, as 5GB or 500MB; 5GB when not given.
    #[arg(long, value_name = "SIZE", default_value_t = DEFAULT_SHARD_BYTES, hide_default_value = true, value_parser = bytes)]
    pub shard_size: u64,
    /// Print JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

fn form() -> impl TypedValueParser<Value = Form> {
    choice(
        [Form::Delta, Form::Lora],
        |form| match form {
            Form::Delta => "delta",
            Form::Lora => "lora",
        },
        |form| match form {
            Form::Delta => "The changed values and where they belong",
            Form::Lora => "An adapter of low rank, as PEFT loads it",
        },
    )
}

fn others() -> impl TypedValueParser<Value = Others> {
    choice(
        [Others::Save, Others::Leave],
        |others| match others {
            Others::Save => "save",
            Others::Leave => "leave",
        },
        |others| match others {
            Others::Save => "Their modules are stored as a whole, where PEFT can do that",
            Others::Leave => "They stay the base's",
        },
    )
}
