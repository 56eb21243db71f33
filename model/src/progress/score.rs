//! How well a model does a task.

use serde::{Deserialize, Serialize};

use crate::score::ScoreKind;

/// How well a model does one task.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Mean negative log-likelihood per supervised token, in nats.
    pub loss: f64,
    /// Share of rows answered right by greedy generation, from 0 to 1; none for rows without a prompt, and in records
    /// of earlier versions, which have the exact match alone: see [`Score::share`].
    #[serde(default)]
    pub score: Option<f64>,
    /// When an answer is right.
    #[serde(default)]
    pub score_kind: ScoreKind,
    /// Share of rows whose greedy answer equals the row's character for character; none for rows without a prompt.
    pub exact_match: Option<f64>,
    /// Share of rows whose right option has the lowest loss of the options; none unless answers are choices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice_by_loss: Option<f64>,
    /// Supervised tokens.
    pub tokens: u64,
    /// Rows.
    pub rows: u64,
}

impl Score {
    /// Share of rows answered right, from 0 to 1; none for rows without a prompt.
    pub fn share(&self) -> Option<f64> {
        self.score.or(self.exact_match)
    }

    /// The perplexity: e to the power of the loss.
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }

    /// Where the score lies between `base` (0) and `best` (1): by the share answered right where all three have it, else
    /// by loss. None where the two do not differ.
    pub fn normalised(&self, base: &Self, best: &Self) -> Option<f64> {
        let (value, zero, one) = match (self.share(), base.share(), best.share()) {
            (Some(value), Some(zero), Some(one)) => (value, zero, one),
            _ => (-self.loss, -base.loss, -best.loss),
        };
        (one != zero).then(|| (value - zero) / (one - zero))
    }

    /// How good a model is at a task, to choose the best of several by; higher is better. 0 is what the base has, and 1 what
    /// the task's specialist has, where it is known and better than the base. Where none is known, 1 is the best there
    /// can be: every answer right, or a loss of 0. Where there is no room between the two, the difference to the base
    /// counts as it is.
    pub fn quality(&self, base: &Self, specialist: Option<&Self>) -> f64 {
        // A base that is sure of every token leaves no share: the loss itself counts.
        let below = |score: &Self| if base.loss > 0.0 { 1.0 - score.loss / base.loss } else { -score.loss };
        let (value, zero, one, best) = match (self.share(), base.share()) {
            (Some(value), Some(zero)) => (value, zero, specialist.and_then(Self::share), 1.0),
            // Of losses the share by which they are below the base's.
            _ => (below(self), 0.0, specialist.map(below), 1.0),
        };
        let room = one.unwrap_or(best) - zero;
        if room > 0.0 { (value - zero) / room } else { value - zero }
    }
}

/// A perplexity as tables have it.
pub fn perplexity_text(perplexity: f64) -> String {
    if perplexity < 1e5 { format!("{perplexity:.3}") } else { format!("{perplexity:.3e}") }
}

/// What a model reaches on a sample of the rows of a task or measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleScore {
    /// The task or measure.
    pub task: String,
    /// Its score.
    pub score: Score,
}

#[cfg(test)]
mod tests {
    use super::Score;
    use crate::score::ScoreKind;

    fn score(loss: f64, exact_match: Option<f64>) -> Score {
        let (score, score_kind) = (exact_match, ScoreKind::Exact);
        Score { loss, score, score_kind, exact_match, choice_by_loss: None, tokens: 10, rows: 5 }
    }

    #[test]
    fn scores_lie_between_base_and_specialist() {
        let (base, best) = (score(2.0, Some(0.1)), score(0.5, Some(0.9)));
        assert_eq!(best.normalised(&base, &best), Some(1.0));
        assert_eq!(base.normalised(&base, &best), Some(0.0));
        assert_eq!(score(9.0, Some(0.5)).normalised(&base, &best), Some(0.5));
        // Without answers it goes by loss; a loss above the base's is below 0.
        let (base, best) = (score(2.0, None), score(1.0, None));
        assert_eq!(score(2.5, None).normalised(&base, &best), Some(-0.5));
        assert_eq!(base.normalised(&base, &base), None);
    }

    #[test]
    fn what_counts_is_what_was_right_by_the_tasks_score() {
        let number =
            |share: f64| Score { score: Some(share), score_kind: ScoreKind::Number, ..score(2.0, Some(0.0)) };
        assert_eq!(number(0.5).normalised(&number(0.25), &number(0.75)), Some(0.5));
        // Records of earlier versions have the exact match alone.
        let earlier = |share: f64| Score { score: None, ..score(2.0, Some(share)) };
        assert_eq!(earlier(0.5).normalised(&earlier(0.0), &earlier(1.0)), Some(0.5));
    }

    #[test]
    fn quality_is_a_number_where_there_is_nothing_to_divide_by() {
        let right = |share| score(2.0, Some(share));
        // A probe that is as good as the base, both at nothing.
        assert_eq!(right(0.0).quality(&right(0.0), Some(&right(0.0))), 0.0);
        assert_eq!(right(0.5).quality(&right(0.0), Some(&right(0.0))), 0.5);
        let loss = |loss| score(loss, None);
        assert_eq!(loss(1.5).quality(&loss(2.0), Some(&loss(2.0))), 0.25);
        // A base whose loss is 0 already.
        assert_eq!(loss(0.0).quality(&loss(0.0), None), 0.0);
        assert_eq!(loss(0.5).quality(&loss(0.0), Some(&loss(0.0))), -0.5);
    }

    #[test]
    fn quality_is_measured_from_the_base_to_the_specialist() {
        let right = |share| score(2.0, Some(share));
        assert_eq!(right(0.5).quality(&right(0.25), Some(&right(0.75))), 0.5);
        // Better than the specialist is more than 1, worse than the base less than 0.
        assert_eq!(right(1.0).quality(&right(0.25), Some(&right(0.75))), 1.5);
        assert_eq!(right(0.0).quality(&right(0.25), Some(&right(0.75))), -0.5);
        // No specialist: from the base to all answers right.
        assert_eq!(right(0.5).quality(&right(0.25), None), 1.0 / 3.0);
        // No room: the difference, also where the specialist is worse than the base.
        assert_eq!(right(0.75).quality(&right(0.5), Some(&right(0.5))), 0.25);
        assert_eq!(right(0.75).quality(&right(0.5), Some(&right(0.25))), 0.25);
        assert_eq!(right(0.75).quality(&right(1.0), None), -0.25);
    }

    #[test]
    fn quality_goes_by_losses_where_there_are_no_answers() {
        let loss = |loss| score(loss, None);
        assert_eq!(loss(1.5).quality(&loss(2.0), Some(&loss(1.0))), 0.5);
        assert_eq!(loss(1.5).quality(&loss(2.0), None), 0.25);
        assert_eq!(loss(3.0).quality(&loss(2.0), Some(&loss(2.0))), -0.5);
    }
}
