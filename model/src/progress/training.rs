//! What is trained: the stages that have fine-tunes.

use std::fmt;
use std::str::FromStr;

use crate::recipe::Method;
use crate::serde_text::serde_as_text;

/// What a fine-tune belongs to. In the run folder it is a name: `probe`, `integrate`, or the method's for a baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainingStage {
    /// Stage 1 for one task.
    Probe,
    /// The backbone of stage 3, where it is trained.
    Backbone,
    /// Stage 4.
    Integrate,
    /// All there is of a baseline.
    Method(Method),
    /// A task after another, for every pair.
    Pairs,
}

impl TrainingStage {
    /// Lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Backbone => "backbone",
            Self::Integrate => "integrate",
            Self::Method(method) => method.name(),
            Self::Pairs => "pairs",
        }
    }

    /// Name of one of its fine-tunes, for checkpoints and event files; `part` is the probe's task or the pair, and empty
    /// otherwise.
    pub fn training(self, part: &str) -> String {
        if part.is_empty() { self.name().to_owned() } else { format!("{self}-{part}") }
    }
}

impl fmt::Display for TrainingStage {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.pad(self.name())
    }
}

/// A name that no stage has.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a stage that trains")]
pub struct UnknownStage(String);

impl FromStr for TrainingStage {
    type Err = UnknownStage;

    fn from_str(name: &str) -> Result<Self, UnknownStage> {
        let stages = [Self::Probe, Self::Backbone, Self::Integrate, Self::Pairs].into_iter();
        let mut stages = stages.chain(Method::ALL.map(Self::Method));
        stages.find(|stage| stage.name() == name).ok_or_else(|| UnknownStage(name.to_owned()))
    }
}

serde_as_text!(TrainingStage);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_run_folder() {
        let stages = [
            (TrainingStage::Probe, "\"probe\""),
            (TrainingStage::Backbone, "\"backbone\""),
            (TrainingStage::Integrate, "\"integrate\""),
            (TrainingStage::Method(Method::Half), "\"half\""),
            (TrainingStage::Pairs, "\"pairs\""),
        ];
        for (stage, text) in stages {
            assert_eq!(serde_json::to_string(&stage).unwrap(), text);
            assert_eq!(serde_json::from_str::<TrainingStage>(text).unwrap(), stage);
        }
        assert_eq!(TrainingStage::Probe.training("code"), "probe-code");
        assert_eq!(TrainingStage::Integrate.training(""), "integrate");
        let message = serde_json::from_str::<TrainingStage>("\"fuse\"").unwrap_err().to_string();
        assert_eq!(message, "`fuse` is not a stage that trains");
    }
}
