//! `cores`.

use std::path::PathBuf;

use clap::builder::TypedValueParser;
use clap::{Args, ValueHint};
use cpift_model::recipe::CoreScope;

use super::choice;

/// What `cores --help` begins with.
pub const ABOUT: &str = "\
Find which parameters each fine-tune of a model moved most, and how these cores overlap.

Reads the models as they lie on the disk, of any architecture and size: tensors are matched by name, and a few blocks of \
them are in memory at a time. A core is the share of all parameters with the largest |θ − θ0|, exactly as many, ties to the \
lower index; fewer only where no others moved. Layers go by the first number in a tensor's name. Two cores overlap by |A ∩ B| / |A ∪ B|; beside it stand how many times chance that is, and how often both models \
moved a shared parameter to the same side.";

/// What `cores --help` ends with.
pub const EXAMPLES: &str = "\
Examples:
  cpift-engine cores --base my-model tune-a tune-b --out cores
  cpift-engine cores --base my-model math=tune-a --scope layer --out cores

Files written:
  NAME.mask.safetensors   one bit of every parameter: bit j % 64 of word j / 64 of a tensor is its element j
  report.json             sizes, thresholds, shares by layer and by kind of tensor, overlaps, groups
  report.html report/     the same as a page with charts, and the charts and tables as SVG and CSV
  manifest.json           length and hash of masks and report.json

Exit codes: 0 done, 1 failed, 2 the input was wrong, 130 stopped.";

/// `cores`.
#[derive(Debug, Args)]
pub struct Cores {
    /// The fine-tunes, folders (also of LoRA adapters) or names on the hub, each with a name before an equals sign where it is not to be the folder's.
    #[arg(value_name = "[NAME=]MODEL", required = true, value_hint = ValueHint::DirPath, value_parser = named)]
    pub models: Vec<(String, PathBuf)>,
    /// The model that the others are fine-tunes of.
    #[arg(long, value_name = "BASE", value_hint = ValueHint::DirPath)]
    pub base: PathBuf,
    /// Share of the parameters that a core holds.
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    pub fraction: f64,
    /// Over what that share is taken.
    #[arg(long, value_name = "SCOPE", default_value = "global", value_parser = scope())]
    pub scope: CoreScope,
    /// Leave out tensors whose name contains this; can be given several times.
    #[arg(long, value_name = "PART")]
    pub exclude: Vec<String>,
    /// Overlap from which on models are put into one group.
    #[arg(long, value_name = "OVERLAP", default_value_t = 0.1)]
    pub threshold: f64,
    /// Folder of what is found, which must not exist or be empty.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub out: PathBuf,
    /// Print the report as JSON instead of tables.
    #[arg(long)]
    pub json: bool,
}

fn scope() -> impl TypedValueParser<Value = CoreScope> {
    let name = |scope| match scope {
        CoreScope::Global => "global",
        CoreScope::Layer => "layer",
        CoreScope::Tensor => "tensor",
    };
    choice([CoreScope::Global, CoreScope::Layer, CoreScope::Tensor], name, |scope| match scope {
        CoreScope::Global => "All parameters at once",
        CoreScope::Layer => "Each layer by itself",
        CoreScope::Tensor => "Each tensor by itself",
    })
}

/// A model with its name: what stands before an equals sign, else the last part of its path or name.
fn named(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = match text.split_once('=') {
        Some((name, path)) if !name.contains(['/', '\\']) => (name.to_owned(), path),
        _ => {
            let whole = std::path::absolute(text).unwrap_or_else(|_| PathBuf::from(text));
            let last = whole.file_name().map(|name| name.to_string_lossy().into_owned());
            // The commit of a model on the hub is no part of a file's name.
            (last.unwrap_or_default().split('@').next().unwrap_or_default().to_owned(), text)
        }
    };
    if path.is_empty() {
        return Err("there is a name, but no model behind it".to_owned());
    }
    Ok((name, PathBuf::from(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_before_an_equals_sign_or_are_the_folders() {
        let of = |text: &str| named(text).unwrap().0;
        assert_eq!(of("math=runs/1/final"), "math");
        assert_eq!(of("runs/1/tune-a/"), "tune-a");
        assert_eq!(of("org/name@main"), "name");
        assert_eq!(of("./a=b/c"), "c");
        assert_eq!(named("x=y").unwrap().1, PathBuf::from("y"));
        assert!(named("x=").is_err());
    }
}
