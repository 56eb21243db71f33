//! Columns of a job's tables: which model was measured.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use super::TrainingStage;
use crate::recipe::EvaluateSettings;
use crate::serde_text::serde_as_text;

/// Which model was measured. In the files of a run it is a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Column {
    /// The base.
    Base,
    /// Each task's own probe.
    Probe,
    /// The fused model.
    Fused,
    /// The final model.
    Final,
    /// The probe of this task, on the others.
    After(String),
    /// A task trained after another, by their names.
    Pair {
        /// The task whose probe it begins with.
        first: String,
        /// The task that is trained.
        second: String,
    },
    /// One of the others, on a sample of the rows.
    Sample {
        /// Which.
        of: Box<Column>,
        /// Rows of each task.
        rows: usize,
        /// Whether answers are generated, and not only the loss measured.
        answers: bool,
    },
}

impl Column {
    /// The same model on the samples of these settings.
    pub fn sample(&self, settings: &EvaluateSettings) -> Self {
        Self::Sample { of: Box::new(self.clone()), rows: settings.rows, answers: settings.answers }
    }
}

const AFTER: &str = "after ";
const THEN: &str = " → ";
const ON: &str = " on ";
const ROWS: &str = " rows";
const WITH_ANSWERS: &str = " rows with answers";

impl fmt::Display for Column {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base => text.write_str("base"),
            Self::Probe => text.write_str("probe"),
            Self::Fused => text.write_str("fused"),
            Self::Final => text.write_str("final"),
            Self::After(task) => write!(text, "{AFTER}{task}"),
            Self::Pair { first, second } => write!(text, "{first}{THEN}{second}"),
            Self::Sample { of, rows, answers } => {
                write!(text, "{of}{ON}{rows}{}", if *answers { WITH_ANSWERS } else { ROWS })
            }
        }
    }
}

/// A name that no column has.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not the name of a column")]
pub struct UnknownColumn(String);

impl FromStr for Column {
    type Err = UnknownColumn;

    fn from_str(text: &str) -> Result<Self, UnknownColumn> {
        let of_model = |name: &str| match name {
            "base" => Some(Self::Base),
            "probe" => Some(Self::Probe),
            "fused" => Some(Self::Fused),
            "final" => Some(Self::Final),
            _ => None,
        };
        let of_sample = || {
            let (model, rows) = text.split_once(ON)?;
            let (rows, answers) = match rows.strip_suffix(WITH_ANSWERS) {
                Some(rows) => (rows, true),
                None => (rows.strip_suffix(ROWS)?, false),
            };
            Some(Self::Sample { of: Box::new(of_model(model)?), rows: rows.parse().ok()?, answers })
        };
        let of_pair = || {
            let (first, second) = text.split_once(THEN)?;
            Some(Self::Pair { first: first.to_owned(), second: second.to_owned() })
        };
        let of_first = || text.strip_prefix(AFTER).map(|task| Self::After(task.to_owned()));
        let column = of_model(text).or_else(of_first).or_else(of_pair).or_else(of_sample);
        column.ok_or_else(|| UnknownColumn(text.to_owned()))
    }
}

serde_as_text!(Column);

/// By name, as the files of a run have them. A task could be called so that two columns have one name: these are ordered
/// by what they are, since only equal ones may compare as equal.
impl Ord for Column {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_name = self.to_string().cmp(&other.to_string());
        by_name.then_with(|| format!("{self:?}").cmp(&format!("{other:?}")))
    }
}

impl PartialOrd for Column {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Whose evaluation makes progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measured<'a> {
    /// The model of a column.
    Column(&'a Column),
    /// A model in training, of which nothing is kept under a column.
    Training {
        /// What is trained.
        stage: TrainingStage,
        /// The probe's task; empty otherwise.
        part: &'a str,
    },
}

impl fmt::Display for Measured<'_> {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Column(column) => column.fmt(text),
            Self::Training { stage, part } => text.write_str(&stage.training(part)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_files() {
        let sample = |of: Column, rows, answers| Column::Sample { of: Box::new(of), rows, answers };
        let pair = Column::Pair { first: "code".to_owned(), second: "logic".to_owned() };
        let columns = [
            (Column::Base, "base"),
            (Column::Final, "final"),
            (Column::After("code".to_owned()), "after code"),
            (pair, "code → logic"),
            (sample(Column::Base, 5, false), "base on 5 rows"),
            (sample(Column::Probe, 64, true), "probe on 64 rows with answers"),
        ];
        for (column, text) in columns {
            assert_eq!(column.to_string(), text);
            assert_eq!(text.parse::<Column>().unwrap(), column);
        }
        for text in ["", "bas", "base on rows", "code on 5 rows"] {
            let message = text.parse::<Column>().unwrap_err().to_string();
            assert_eq!(message, format!("`{text}` is not the name of a column"));
        }
        let in_training = Measured::Training { stage: TrainingStage::Probe, part: "code" };
        assert_eq!(in_training.to_string(), "probe-code");
        assert_eq!(Measured::Column(&Column::Base).to_string(), "base");
    }

    #[test]
    fn columns_are_ordered_by_name_and_only_equal_ones_compare_as_equal() {
        let pair = |first: &str, second: &str| Column::Pair { first: first.into(), second: second.into() };
        let after = Column::After("a → b".to_owned());
        let same_name = pair("after a", "b");
        assert_eq!(after.to_string(), same_name.to_string());
        assert_ne!(after.cmp(&same_name), Ordering::Equal);
        assert_eq!(after.cmp(&same_name), same_name.cmp(&after).reverse());
        assert_eq!(after.cmp(&after.clone()), Ordering::Equal);
        let mut columns = [Column::Probe, Column::Final, Column::Base, after.clone()];
        columns.sort();
        assert_eq!(columns, [after, Column::Base, Column::Final, Column::Probe]);
    }
}
