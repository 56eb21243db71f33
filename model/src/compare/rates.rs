//! Rows of the table that change how fast a method learns: the learning rate, and the momentum.

use super::family::Family;
use super::results::{Budget, BudgetSteps};
use super::rows::{FINE_TUNES, Row, cpift, fine_tune};
use crate::recipe::{Edit, Method, Recipe};

/// Factors of the recipe's learning rate in the family `learning-rate`.
const RATE_FACTORS: [f64; 3] = [0.5, 2.0, 4.0];
/// Those in the family `momentum`.
const MOMENTUM_RATE_FACTORS: [f64; 3] = [1.0, 2.0, 4.0];
/// Decay of the first moment in the family `momentum`.
const LESS_MOMENTUM: f64 = 0.5;

/// How fast a method learns, beside the recipe.
#[derive(Clone, Copy)]
struct Speed {
    /// Factor of the learning rate.
    factor: f64,
    /// Decay of the first moment; none leaves the recipe's.
    beta1: Option<f64>,
}

impl Speed {
    /// What is added to a row's name.
    fn name(self) -> String {
        let momentum = self.beta1.map_or(String::new(), |beta1| format!(" β1={beta1}"));
        let rate = if self.factor == 1.0 { String::new() } else { format!(" rate×{}", self.factor) };
        momentum + &rate
    }

    /// What is added to its title; `of` says of which training.
    fn title(self, of: &str) -> String {
        let momentum = self.beta1.map_or(String::new(), |beta1| format!(", β1 = {beta1}{of}"));
        let rate = if self.factor == 1.0 {
            String::new()
        } else {
            format!(", learning rate{of} × {}", self.factor)
        };
        momentum + &rate
    }

    /// The edits of stage 4.
    fn of_integration(self, recipe: &Recipe) -> Vec<Edit> {
        let rate = Edit::IntegrateLearningRate(self.factor * recipe.integrate.training.learning_rate);
        [rate].into_iter().chain(self.beta1.map(Edit::IntegrateBeta1)).collect()
    }

    /// The edits of a training from the base.
    fn of_training(self, recipe: &Recipe) -> Vec<Edit> {
        let rate = Edit::TrainLearningRate(self.factor * recipe.train.learning_rate);
        [rate].into_iter().chain(self.beta1.map(Edit::TrainBeta1)).collect()
    }
}

/// All rows, with their families. `splits` are CPI-FT with its shortest probes.
pub fn rows(recipe: &Recipe, steps: BudgetSteps, splits: &[Row]) -> Vec<(Family, Row)> {
    let mut rows = Vec::new();
    for factor in RATE_FACTORS {
        let speed = Speed { factor, beta1: None };
        let of = of_speed(recipe, steps, splits, speed, |_| true);
        rows.extend(of.into_iter().map(|row| (Family::LearningRate, row)));
    }
    for factor in MOMENTUM_RATE_FACTORS {
        let speed = Speed { factor, beta1: Some(LESS_MOMENTUM) };
        let of =
            of_speed(recipe, steps, splits, speed, |method| matches!(method, Method::Joint | Method::Half));
        rows.extend(of.into_iter().map(|row| (Family::Momentum, row)));
    }
    rows
}

/// CPI-FT, its forms with the shortest probes, and the methods that are wanted, at this speed.
fn of_speed(
    recipe: &Recipe,
    steps: BudgetSteps,
    splits: &[Row],
    speed: Speed,
    is_wanted: impl Fn(Method) -> bool,
) -> Vec<Row> {
    let title = format!("CPI-FT{}", speed.title(" of stage 4"));
    let mut rows =
        vec![cpift(&format!("cpift{}", speed.name()), &title, &speed.of_integration(recipe), steps)];
    for row in splits {
        let mut row = row.clone();
        row.name.push_str(&speed.name());
        row.title.push_str(&speed.title(" of stage 4").replacen(',', ";", 1));
        row.edits.extend(speed.of_integration(recipe));
        rows.push(row);
    }
    for (method, title) in FINE_TUNES.into_iter().filter(|(method, _)| is_wanted(*method)) {
        for (budget, steps) in [(Budget::Total, steps.total), (Budget::Given, steps.given)] {
            let mut row = fine_tune(method, &format!("{title}{}", speed.title("")), budget, steps);
            row.name = format!("{}{}", method.name(), speed.name());
            row.edits.extend(speed.of_training(recipe));
            rows.push(row);
        }
    }
    rows
}
