//! Families of ablations.

/// Ablations that change the same choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Which parameters are cores.
    Cores,
    /// How a parameter's importance is measured.
    Importance,
    /// What cores are transplanted into.
    Fusion,
    /// What stage 4 freezes.
    Freezing,
    /// What stage 4 trains on.
    Data,
    /// Which tasks are a group.
    Grouping,
    /// How large a core is.
    Fraction,
    /// From which overlap on tasks are grouped.
    Threshold,
    /// In which order groups are trained.
    Order,
    /// Whether there is a stage 4.
    StageFour,
    /// How steps are divided between probes and stage 4.
    Split,
    /// λ of the merges.
    Scale,
    /// The learning rate of stage 4.
    LearningRate,
    /// Less momentum, at several learning rates.
    Momentum,
}

impl Family {
    /// All, in the order of the table.
    pub const ALL: [Self; 14] = [
        Self::Cores,
        Self::Importance,
        Self::Fusion,
        Self::Freezing,
        Self::Data,
        Self::Grouping,
        Self::Fraction,
        Self::Threshold,
        Self::Order,
        Self::StageFour,
        Self::Split,
        Self::Scale,
        Self::LearningRate,
        Self::Momentum,
    ];

    /// The name, as the command line takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cores => "cores",
            Self::Importance => "importance",
            Self::Fusion => "fusion",
            Self::Freezing => "freezing",
            Self::Data => "data",
            Self::Grouping => "grouping",
            Self::Fraction => "fraction",
            Self::Threshold => "threshold",
            Self::Order => "order",
            Self::StageFour => "stage 4",
            Self::Split => "split",
            Self::Scale => "scale",
            Self::LearningRate => "learning-rate",
            Self::Momentum => "momentum",
        }
    }
}
