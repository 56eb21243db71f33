//! `[fuse]`: the choices of stage 3.

use serde::{Deserialize, Serialize};

/// What non-core coordinates start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backbone {
    /// The SLERP fold over all task models.
    #[default]
    Mean,
    /// The base model.
    Base,
    /// The last task's model.
    Last,
    /// A model fine-tuned through the groups one after the other.
    Staged,
    /// θ0 and the mean of all updates: plain averaging of the task models.
    Average,
    /// θ0 and `scale` times the sum of all updates (task arithmetic, arXiv 2212.04089).
    Arithmetic,
    /// Of every tensor of every update the `density` largest; of these, where signs differ, those with the
    /// sign of the sum; `scale` times their mean (TIES, arXiv 2306.01708).
    Ties,
    /// Of every update a random share `density`, scaled up by 1/density; `scale` times the sum (DARE,
    /// arXiv 2311.03099).
    Dare,
    /// The same, joined as TIES does.
    #[serde(rename = "dare-ties")]
    DareTies,
}

/// How the fold joins two models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// Along the arc between them.
    #[default]
    Slerp,
    /// Along the line between them.
    Lerp,
}

/// Space in which SLERP turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlerpSpace {
    /// The weights themselves.
    #[default]
    Weights,
    /// The differences from the base.
    Delta,
}

/// Weight of task i in the SLERP fold.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected \"running\" or a number from 0 to 1")]
pub enum FoldWeight {
    /// 1/i: the running mean.
    #[default]
    #[serde(with = "running")]
    Running,
    /// The same for every task, from 0 to 1.
    Constant(f64),
}

/// What a coordinate in several cores becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Conflict {
    /// The task whose importance, divided by that task's threshold, is largest.
    #[default]
    Max,
    /// The last task.
    Last,
    /// The mean of the tasks.
    Mean,
    /// The mean of those that agree with the majority's sign.
    Sign,
}

/// `[fuse]`: stage 3.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FuseSettings {
    /// What non-core coordinates start from.
    pub backbone: Backbone,
    /// Space of the SLERP.
    pub space: SlerpSpace,
    /// Weight of each task in the fold: `"running"` or a number.
    pub weight: FoldWeight,
    /// What a coordinate in several cores becomes.
    pub conflict: Conflict,
    /// Angle (radians) under which SLERP becomes LERP.
    pub epsilon: f64,
    /// How the fold joins two models.
    pub interpolation: Interpolation,
    /// Take the coordinates of cores from their task's model; otherwise the backbone is all there is.
    pub transplant: bool,
    /// λ of the backbones `arithmetic`, `ties`, `dare` and `dare-ties`.
    pub scale: f64,
    /// Share of every update that `ties`, `dare` and `dare-ties` keep.
    pub density: f64,
}

impl Default for FuseSettings {
    fn default() -> Self {
        Self {
            backbone: Backbone::Mean,
            space: SlerpSpace::Weights,
            weight: FoldWeight::Running,
            conflict: Conflict::Max,
            epsilon: 1e-6,
            interpolation: Interpolation::Slerp,
            transplant: true,
            scale: 1.0,
            density: 0.2,
        }
    }
}

/// `"running"` as the string form of [`FoldWeight::Running`].
mod running {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("running")
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "running" => Ok(()),
            other => Err(D::Error::custom(format!("expected `running` or a number, found `{other}`"))),
        }
    }
}
