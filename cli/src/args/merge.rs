//! `merge`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::builder::TypedValueParser;
use clap::{Args, ValueHint};
use cpift_model::checkpoint::WeightType;
use cpift_model::merge::{Method, Rescale, Vocabulary};

use super::choice;
use super::sweep::SweepArguments;

/// What `merge --help` begins with.
pub const ABOUT: &str = "\
Merge model folders of any architecture into one, without holding them in memory.

Tensors are matched by name and streamed from disk, a few at a time: five models of 1.1B parameters take half a GiB (cpift: 0.9). The \
folder that comes out loads in transformers. It has the configuration, the tokenizer and the licences of the base, or of the \
first model where there is no base; its floats have the type of the models' unless --dtype says otherwise.

What is made of the models' values θ, the base's θ0, the weights w and the updates Δ = θ − θ0:

    slerp        two models, the base being one of them: along the arc from the base to the other, the share --t of it; more
                 models: one after the other, by weight
    delta-slerp  the same of the updates, one after the other
    average      Σ w·θ / Σ w
    passthrough  one model, times its weight
    arithmetic   θ0 + scale · Σ w·Δ
    ties         of every tensor of Δ the share --density of largest magnitude; where signs differ, those with the sign of \
the sum; θ0 + scale · their weighted mean
    dare         a random share --density of Δ, scaled up (--rescale); θ0 + scale · Σ w·Δ
    dare-ties    the random share of dare, and of it those with the sign of the sum
    della        as dare-ties, with a probability by the rank of a magnitude in its row, --density ± --epsilon, and their weighted mean; della-linear sums as dare
    breadcrumbs  of every tensor of Δ the share --density behind the share --gamma of largest magnitude, summed as by arithmetic; breadcrumbs-ties joins them by their signs
    sce          of every tensor the share --density of coordinates whose Δ vary most; those with the sign of the sum, weighted by the mean squares of Δ
    model-stock  θ0 + t · (mean − θ0), with t by the mean cosine of the updates
    nuslerp      two models along the arc by their weights, or with --base their updates
    karcher      the mean on the sphere, of the base too where it is named
    cpift        the fusion of train: the share --fraction of all parameters that a model moved furthest are its core and stay that model's; the others are folded as by slerp

Numbers are those of mergekit 0.1.5, computed in f32 and f64. Two models closer than 1.8 degrees are interpolated along a \
straight line, as there (--dot-threshold); how many tensors were is said at the end.

A configuration of mergekit (YAML) in the place of the models says all of that itself, with slices, gradients and filters. Its \
models are folders, from the current one, or names on the hub. Keys that are not read are refused by name.

--sweep tries one number at several values: every model is measured on the files of --data, and the one that does best is what \
comes out. sweep.json has every value's losses and scores, report.html shows them. This program must be able to compute such models.";

/// What `merge --help` ends with.
pub const EXAMPLES: &str = "\
Examples:
  cpift-engine merge --method average tune-a tune-b tune-c --out merged
  cpift-engine merge --method slerp --base my-model my-tune --t 0.3 --out merged
  cpift-engine merge --method ties --base my-model tune-a tune-b:0.5 --dtype bf16 --out merged
  cpift-engine merge --method dare --base my-model tune-a:0.7 --rescale density --out merged
  cpift-engine merge --method ties --base my-model tune-a tune-b --out merged --resume
  cpift-engine merge --method average my-model tune-a --vocabulary union --out merged
  cpift-engine merge merge.yml --dtype bf16 --out merged
  cpift-engine merge merge.yml --sweep t=0.2:0.8:0.3 --data code.jsonl sort.jsonl --out merged

Files written: model.safetensors (or shards with an index), config.json, the tokenizer's files and licences, manifest.json; \
of a sweep sweep.json, report.html and report/.

Exit codes: 0 done, 1 the merge failed, 2 the input was wrong, 130 stopped.";

/// `merge`.
#[derive(Debug, Args)]
pub struct Merge {
    /// The models, folders or names on the hub, each with a weight behind a colon where it is not 1: my-tune:0.5. The folder of
    /// a LoRA adapter is its base with what it adds; MODEL+ADAPTER adds it to another model. Or a configuration of mergekit, a
    /// file whose name ends in .yml or .yaml.
    #[arg(value_name = "MODEL[:WEIGHT]", required = true, value_hint = ValueHint::DirPath, value_parser = weighted)]
    pub models: Vec<(PathBuf, f64)>,
    /// The model that the others are fine-tunes of.
    #[arg(long, value_name = "BASE", value_hint = ValueHint::DirPath)]
    pub base: Option<PathBuf>,
    /// How the models are merged; needed but where a configuration says it.
    #[arg(long, value_name = "METHOD", value_parser = method())]
    pub method: Option<Method>,
    /// Folder of the merged model, which must not exist or be empty.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub out: PathBuf,
    /// slerp: where on the way from the first model (0, the base) to the second (1); 0.5 when not given.
    #[arg(long, value_name = "T", value_parser = share)]
    pub t: Option<f64>,
    /// slerp: two vectors whose cosine is larger than this are interpolated along a straight line; 0.9995 when not given, 1
    /// for parallel and opposite ones alone.
    #[arg(long, value_name = "COSINE", value_parser = share)]
    pub dot_threshold: Option<f64>,
    /// Factor of the merged update; 1 when not given.
    #[arg(long, value_name = "FACTOR", value_parser = number, allow_negative_numbers = true)]
    pub scale: Option<f64>,
    /// Share of each update that takes part in ties, dare and della (0.2 when not given) and breadcrumbs (0.9); of the
    /// coordinates that vary, in sce (1).
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub density: Option<f64>,
    /// Share of each update, its largest magnitudes, that breadcrumbs drop; 0.01 when not given.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub gamma: Option<f64>,
    /// How far the probability of a row's largest coordinates is above --density in della, and that of its smallest below;
    /// 0.15 when not given.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub epsilon: Option<f64>,
    /// Share of all parameters that are in a model's core in cpift; 0.01 when not given.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub fraction: Option<f64>,
    /// What an update is multiplied by of which not all takes part; norm for dare and della when not given, else none.
    #[arg(long, value_name = "HOW", value_parser = rescale())]
    pub rescale: Option<Rescale>,
    /// Divide by the sum of the weights that took part; the default is true for average, ties and della, else false.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub normalize: Option<bool>,
    /// Seed of what is drawn by dare and della.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// What becomes of tokens that not all models have, or that have other numbers; when not given, what a configuration
    /// says, else strict.
    #[arg(long, value_name = "WHICH", value_parser = vocabulary())]
    pub vocabulary: Option<Vocabulary>,
    /// Type of the merged floats; when not given, what a configuration says, else that of the models.
    #[arg(long, value_name = "TYPE", value_parser = dtype())]
    pub dtype: Option<WeightType>,
    /// Most bytes of a file of weights, as 5GB or 500MB.
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = bytes)]
    pub shard_size: u64,
    /// Continue an interrupted merge after its last whole file, an interrupted sweep after its last value.
    #[arg(long)]
    pub resume: bool,
    /// Print JSON instead of text.
    #[arg(long)]
    pub json: bool,
    /// What is tried, and what it is measured on.
    #[command(flatten)]
    pub sweep: SweepArguments,
}

impl Merge {
    /// The configuration that is given in the place of models.
    pub fn configuration(&self) -> Option<&Path> {
        self.models.iter().map(|(path, _)| path.as_path()).find(|path| is_configuration(path))
    }

    /// An option that was given, of those that a configuration says itself.
    pub fn configured(&self) -> Option<&'static str> {
        let given = [
            ("--method", self.method.is_some()),
            ("--base", self.base.is_some()),
            ("--t", self.t.is_some()),
            ("--dot-threshold", self.dot_threshold.is_some()),
            ("--scale", self.scale.is_some()),
            ("--density", self.density.is_some()),
            ("--gamma", self.gamma.is_some()),
            ("--epsilon", self.epsilon.is_some()),
            ("--fraction", self.fraction.is_some()),
            ("--rescale", self.rescale.is_some()),
            ("--normalize", self.normalize.is_some()),
            ("MODEL", self.models.len() > 1),
        ];
        given.into_iter().find(|(_, is_given)| *is_given).map(|(name, _)| name)
    }
}

fn method() -> impl TypedValueParser<Value = Method> {
    choice(Method::ALL, Method::name, |method| match method {
        Method::Slerp => "Along the arc between two models, or of several one after the other",
        Method::DeltaSlerp => "The same of their updates",
        Method::Average => "Weighted mean",
        Method::Passthrough => "One model as it is",
        Method::Arithmetic => "The base and a sum of updates",
        Method::Ties => "The largest updates, joined by their signs",
        Method::Dare => "Random parts of the updates",
        Method::DareTies => "Random parts of the updates, joined by their signs",
        Method::Della => "Random parts of the updates, the larger ones more often, joined by their signs",
        Method::DellaLinear => "The same, summed",
        Method::Breadcrumbs => "The largest updates but for the very largest",
        Method::BreadcrumbsTies => "The same, joined by their signs",
        Method::Sce => "The updates that vary most, weighted by their energies, joined by their signs",
        Method::ModelStock => "Between the base and the mean, as far as the updates agree",
        Method::Nuslerp => "Two models, or their updates, along the arc by their weights",
        Method::Karcher => "The mean on the sphere",
        Method::Cpift => "Cores transplanted, the rest along the arcs: the fusion of train",
    })
}

fn rescale() -> impl TypedValueParser<Value = Rescale> {
    choice(Rescale::ALL, Rescale::name, |rescale| match rescale {
        Rescale::None => "Nothing",
        Rescale::Norm => "The sum of magnitudes before over that after, as mergekit",
        Rescale::Density => "One over the density, as the paper of DARE and as training here",
    })
}

fn vocabulary() -> impl TypedValueParser<Value = Vocabulary> {
    let help = |name| match name {
        "base" => "The tokens of the base, or of the first model; rows of the others are put in their order",
        "union" => "The tokens of all models, those of the base or of the first model before the others",
        _ => "Such models are refused",
    };
    choice(["strict", "base", "union"], |name| name, help).map(|name| match name {
        "base" => Vocabulary::Base,
        "union" => Vocabulary::Union,
        _ => Vocabulary::Strict,
    })
}

/// Parses the name of a type that floats are stored in.
pub fn dtype() -> impl TypedValueParser<Value = WeightType> {
    choice(
        [WeightType::F32, WeightType::F16, WeightType::BF16],
        |dtype| match dtype {
            WeightType::F32 => "f32",
            WeightType::F16 => "f16",
            WeightType::BF16 => "bf16",
        },
        |dtype| match dtype {
            WeightType::F32 => "32-bit floats",
            WeightType::F16 => "16-bit floats",
            WeightType::BF16 => "16-bit brain floats",
        },
    )
}

/// Whether a path is one of a configuration, and not of a model.
fn is_configuration(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str);
    extension
        .is_some_and(|extension| ["yml", "yaml"].iter().any(|known| extension.eq_ignore_ascii_case(known)))
}

/// A model and, behind its last colon, its weight. A path with a colon of its own is one unless a number follows.
fn weighted(text: &str) -> Result<(PathBuf, f64), String> {
    let parsed = text.rsplit_once(':').and_then(|(path, weight)| Some((path, weight.parse::<f64>().ok()?)));
    match parsed {
        Some((_, weight)) if !weight.is_finite() => Err("a weight is a finite number".to_owned()),
        Some(("", _)) => Err("there is a weight, but no model before it".to_owned()),
        Some((path, _)) if is_configuration(Path::new(path)) => {
            Err("a configuration has no weight: it says those of its models".to_owned())
        }
        Some((path, weight)) => Ok((PathBuf::from(path), weight)),
        None => Ok((PathBuf::from(text), 1.0)),
    }
}

fn share(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| (0.0..=1.0).contains(number));
    number.ok_or_else(|| "use a number from 0 to 1".to_owned())
}

fn number(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|number: &f64| number.is_finite()).ok_or_else(|| "use a number".to_owned())
}

/// A size with a unit of thousands, as `transformers` writes it, or of 1024.
pub fn bytes(text: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (amount, unit) = text.split_at(end);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err("use a size as 5GB, 500MB or 2GiB".to_owned()),
    };
    let size = amount.parse::<f64>().ok().map(|amount| (amount * factor).round());
    size.filter(|size| (1.0..1e18).contains(size))
        .map(|size| size as u64)
        .ok_or_else(|| "use a size as 5GB, 500MB or 2GiB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_follow_the_last_colon() {
        assert_eq!(weighted("a:0.5"), Ok((PathBuf::from("a"), 0.5)));
        assert_eq!(weighted("a"), Ok((PathBuf::from("a"), 1.0)));
        assert_eq!(weighted("org/name@main:-1e-1"), Ok((PathBuf::from("org/name@main"), -0.1)));
        assert_eq!(weighted("C:models"), Ok((PathBuf::from("C:models"), 1.0)));
        assert!(weighted("a:nan").is_err() && weighted(":1").is_err());
        assert!(weighted("merge.yml:0.5").is_err() && weighted("merge.YAML:1").is_err());
        assert_eq!(weighted("merge.Yml"), Ok((PathBuf::from("merge.Yml"), 1.0)));
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("5GB"), Ok(5_000_000_000));
        assert_eq!(bytes("1.5 MiB"), Ok(1_572_864));
        assert_eq!(bytes("100"), Ok(100));
        assert!(bytes("0").is_err() && bytes("5 boxes").is_err() && bytes("").is_err());
    }
}
