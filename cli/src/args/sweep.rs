//! `merge --sweep`.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use cpift_model::recipe::Precision;
use cpift_model::sweep::Sweep;

use super::measuring::MeasuringArguments;
use super::{DeviceArgument, PrecisionArgument};

/// What is tried, and what it is measured on.
#[derive(Debug, Args)]
#[command(next_help_heading = "Choosing a number by rows")]
pub struct SweepArguments {
    /// Merge with each of these values of scale, t, density, gamma, epsilon or fraction, measure each model on --data, and
    /// keep the best: KEY=FROM:TO:STEP or KEY=VALUE,VALUE,….
    #[arg(long, value_name = "KEY=FROM:TO:STEP", requires = "data")]
    pub sweep: Option<Sweep>,
    /// Files of rows that the models of a sweep are measured on, one a task, of the forms that `eval` takes. The lowest mean
    /// over the files of their losses decides; with --generate that of the share of right answers, and the loss where it
    /// is equal.
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "sweep", value_hint = ValueHint::FilePath)]
    pub data: Vec<PathBuf>,
    /// How rows are read and answers judged.
    #[command(flatten)]
    pub measuring: MeasuringArguments,
    /// What the models of a sweep are computed in.
    #[command(flatten)]
    pub precision: PrecisionArgument,
    /// Where the models of a sweep are computed; they are merged on the CPU.
    #[command(flatten)]
    pub device: DeviceArgument,
}

impl SweepArguments {
    /// An option that was given and is of no use without a sweep.
    pub fn unused(&self) -> Option<&'static str> {
        if self.sweep.is_some() {
            return None;
        }
        let given = [
            ("--set", !self.measuring.overrides.is_empty()),
            ("--skip-invalid", self.measuring.skip_invalid),
            ("--generate", self.measuring.generate),
            ("--precision", self.precision.precision != Precision::Auto),
            ("--device", self.device.device != "auto"),
        ];
        given.into_iter().find(|(_, is_given)| *is_given).map(|(name, _)| name)
    }
}
