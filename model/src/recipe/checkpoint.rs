//! `[checkpoint]`: saving inside a stage, and what stays of stages.

use serde::{Deserialize, Serialize};

/// `[checkpoint]`. All of it may differ when a run is continued.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckpointSettings {
    /// Steps between checkpoints; 0 saves only between stages and on Ctrl-C.
    pub every: u64,
    /// Newest checkpoints kept per stage, where there is room.
    pub keep: usize,
    /// Whether the probes stay when the model is made that the rest of the run goes on from.
    pub keep_probes: KeepProbes,
}

impl Default for CheckpointSettings {
    fn default() -> Self {
        Self { every: 200, keep: 2, keep_probes: KeepProbes::Auto }
    }
}

/// Whether the probes stay once all is made that is made from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "WrittenKeepProbes", into = "WrittenKeepProbes")]
pub enum KeepProbes {
    /// They stay where the disk has room for the whole run with them.
    #[default]
    Auto,
    /// `true`: they stay.
    Always,
    /// `false`: they are removed.
    Never,
}

/// As recipes write it.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected true, false or \"auto\"")]
enum WrittenKeepProbes {
    Flag(bool),
    Name(Auto),
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Auto {
    Auto,
}

impl From<WrittenKeepProbes> for KeepProbes {
    fn from(written: WrittenKeepProbes) -> Self {
        match written {
            WrittenKeepProbes::Name(Auto::Auto) => Self::Auto,
            WrittenKeepProbes::Flag(true) => Self::Always,
            WrittenKeepProbes::Flag(false) => Self::Never,
        }
    }
}

impl From<KeepProbes> for WrittenKeepProbes {
    fn from(keep: KeepProbes) -> Self {
        match keep {
            KeepProbes::Auto => Self::Name(Auto::Auto),
            KeepProbes::Always => Self::Flag(true),
            KeepProbes::Never => Self::Flag(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_kept_by_a_flag_or_by_the_room_there_is() {
        let parse =
            |text: &str| toml::from_str::<CheckpointSettings>(text).map(|settings| settings.keep_probes);
        let cases = [
            ("", KeepProbes::Auto),
            ("keep_probes = \"auto\"", KeepProbes::Auto),
            ("keep_probes = true", KeepProbes::Always),
            ("keep_probes = false", KeepProbes::Never),
        ];
        for (text, expected) in cases {
            let parsed = parse(text).unwrap();
            assert_eq!(parsed, expected);
            let settings = CheckpointSettings { keep_probes: parsed, ..CheckpointSettings::default() };
            assert_eq!(parse(&toml::to_string(&settings).unwrap()), Ok(expected));
        }
        let error = parse("keep_probes = \"Auto\"").unwrap_err().to_string();
        assert!(error.contains("expected true, false or \"auto\""), "{error}");
    }
}
