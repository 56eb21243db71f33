//! Changes of one setting, made by programs: what `--set` is for people.

use std::fmt;

use serde::Serialize;
use toml::{Table, Value};

use super::origins::Origins;
use super::{
    Backbone, Conflict, Frozen, GroupOrder, ImportanceKind, IntegrateData, Interpolation, Method, Schedule,
    SlerpSpace, StateMemory, overrides,
};

/// A setting and its new value. Shown as `--set` takes it.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(missing_docs, reason = "each is the key of the same name")]
pub enum Edit {
    Seed(u64),
    Method(Method),
    TrainSteps(u64),
    TrainLearningRate(f64),
    TrainBeta1(f64),
    ProbeSteps(u64),
    ProbeImportance(ImportanceKind),
    ProbeSchedule(Schedule),
    ProbeWarmup(f64),
    CoreFraction(f64),
    GroupThreshold(f64),
    GroupOrder(GroupOrder),
    FuseBackbone(Backbone),
    /// `train.memory`.
    TrainMemory(StateMemory),
    FuseSpace(SlerpSpace),
    FuseConflict(Conflict),
    FuseInterpolation(Interpolation),
    FuseTransplant(bool),
    FuseScale(f64),
    FuseDensity(f64),
    IntegrateSteps(u64),
    IntegrateSample(f64),
    IntegrateData(IntegrateData),
    IntegrateFrozen(Frozen),
    IntegrateLearningRate(f64),
    IntegrateBeta1(f64),
}

impl Edit {
    /// Section (empty at the top level), key and value.
    fn assignment(&self) -> (&'static str, &'static str, Value) {
        match self {
            Self::Seed(seed) => ("", "seed", value(seed)),
            Self::Method(method) => ("", "method", value(method)),
            Self::TrainSteps(steps) => ("train", "steps", value(steps)),
            Self::TrainLearningRate(rate) => ("train", "learning_rate", value(rate)),
            Self::TrainBeta1(beta1) => ("train", "beta1", value(beta1)),
            Self::ProbeSteps(steps) => ("probe", "steps", value(steps)),
            Self::ProbeImportance(kind) => ("probe", "importance", value(kind)),
            Self::ProbeSchedule(schedule) => ("probe", "schedule", value(schedule)),
            Self::ProbeWarmup(warmup) => ("probe", "warmup", value(warmup)),
            Self::CoreFraction(fraction) => ("core", "fraction", value(fraction)),
            Self::GroupThreshold(threshold) => ("group", "threshold", value(threshold)),
            Self::GroupOrder(order) => ("group", "order", value(order)),
            Self::FuseBackbone(backbone) => ("fuse", "backbone", value(backbone)),
            Self::TrainMemory(memory) => ("train", "memory", value(memory)),
            Self::FuseSpace(space) => ("fuse", "space", value(space)),
            Self::FuseConflict(conflict) => ("fuse", "conflict", value(conflict)),
            Self::FuseInterpolation(interpolation) => ("fuse", "interpolation", value(interpolation)),
            Self::FuseTransplant(transplant) => ("fuse", "transplant", value(transplant)),
            Self::FuseScale(scale) => ("fuse", "scale", value(scale)),
            Self::FuseDensity(density) => ("fuse", "density", value(density)),
            Self::IntegrateSteps(steps) => ("integrate", "steps", value(steps)),
            Self::IntegrateSample(share) => ("integrate", "sample", value(share)),
            Self::IntegrateData(data) => ("integrate", "data", value(data)),
            Self::IntegrateFrozen(frozen) => ("integrate", "frozen", value(frozen)),
            Self::IntegrateLearningRate(rate) => ("integrate", "learning_rate", value(rate)),
            Self::IntegrateBeta1(beta1) => ("integrate", "beta1", value(beta1)),
        }
    }

    pub(super) fn apply(&self, table: &mut Table, origins: &mut Origins) {
        let (section, key, value) = self.assignment();
        let entries = match section {
            "" => Some(table),
            _ => table.entry(section).or_insert_with(|| Value::Table(Table::new())).as_table_mut(),
        };
        if let Some(entries) = entries {
            overrides::assign(entries, key, value);
            let full = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
            origins.set(&full, &self.to_string());
        }
    }
}

/// Numbers beyond TOML's stay as text, which the reader refuses.
fn value(value: &(impl Serialize + fmt::Debug)) -> Value {
    Value::try_from(value).unwrap_or_else(|_| Value::String(format!("{value:?}")))
}

impl fmt::Display for Edit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (section, key, value) = self.assignment();
        let point = if section.is_empty() { "" } else { "." };
        write!(formatter, "{section}{point}{key}=")?;
        match value {
            Value::String(name) => formatter.write_str(&name),
            Value::Float(number) => write!(formatter, "{number:?}"),
            other => write!(formatter, "{other}"),
        }
    }
}
