//! What a data set holds, in numbers: what `data` shows and `plan` sums up.

use serde::{Deserialize, Serialize};

use super::{Counts, Dataset, InvalidRow, LongRows, Notice, Row, RowFormat};

/// A data set in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Its files.
    pub files: Vec<std::path::PathBuf>,
    /// What its rows become.
    #[serde(rename = "shape")]
    pub format: RowFormat,
    /// Rows that can be used, those longer than `max_length` among them.
    pub rows: usize,
    /// Those of them that are left out because they are too long.
    #[serde(rename = "left_out")]
    pub skipped: usize,
    /// Tokens of the others, without what is cut.
    pub tokens: usize,
    /// Tokens of them that the loss is taken on.
    pub supervised_tokens: usize,
    /// Most tokens of a row in training.
    pub max_length: usize,
    /// Rows longer than that.
    pub longer: usize,
    /// True when those are cut; else they are left out.
    pub truncated: bool,
    /// Rows that cannot be used and are left out.
    pub invalid: usize,
    /// The first of them, and why.
    pub invalid_rows: Vec<(String, String)>,
    /// Rows that have the content of one before them.
    pub duplicates: usize,
    /// Rows to evaluate on that also stand among those to train on.
    pub also_trained: usize,
    /// Tokens of a row before it is cut or left out.
    pub length: Quantiles,
    /// Supervised tokens of a row that is used.
    pub supervised_length: Quantiles,
    /// Rows by their number of tokens, before they are cut or left out.
    pub histogram: Vec<Bin>,
    /// What a person should know, a line each.
    pub notices: Vec<String>,
}

/// Quantiles of a number over all rows, each the number of a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantiles {
    /// The least.
    pub least: usize,
    /// Half of the rows have at most this.
    pub median: usize,
    /// Nine in ten rows have at most this.
    pub p90: usize,
    /// 95 in 100 rows have at most this.
    pub p95: usize,
    /// 99 in 100 rows have at most this.
    pub p99: usize,
    /// The most.
    pub most: usize,
}

impl Quantiles {
    fn of(mut values: Vec<usize>) -> Self {
        values.sort_unstable();
        let Some(last) = values.len().checked_sub(1) else { return Self::default() };
        // The nearest rank.
        let at = |share: f64| values[((share * values.len() as f64).ceil() as usize).clamp(1, last + 1) - 1];
        Self {
            least: values[0],
            median: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            most: values[last],
        }
    }
}

/// Rows whose number of tokens is within a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bin {
    /// Least number of tokens.
    pub from: usize,
    /// Largest number of tokens.
    pub to: usize,
    /// Rows.
    pub rows: usize,
}

/// Bins of which each is twice as wide as the one before, from the shortest row to the longest.
fn histogram(lengths: &[usize]) -> Vec<Bin> {
    // Bin n has the lengths from 2ⁿ to 2ⁿ⁺¹ − 1; no row has none.
    let bin = |length: usize| length.max(1).ilog2();
    let (Some(first), Some(last)) = (lengths.iter().min(), lengths.iter().max()) else { return Vec::new() };
    let mut bins: Vec<Bin> = (bin(*first)..=bin(*last))
        .map(|n| Bin { from: 1 << n, to: (1 << n) + ((1 << n) - 1), rows: 0 })
        .collect();
    for &length in lengths {
        bins[(bin(length) - bin(*first)) as usize].rows += 1;
    }
    bins
}

impl Dataset {
    /// The data set in numbers.
    pub fn summary(&self) -> Summary {
        let lengths: Vec<usize> = self.full_lengths().collect();
        let describe = |row: &InvalidRow| (row.position.describe(self.files()), row.reason.clone());
        let Counts { too_long, truncated, invalid } = self.counts();
        let also_trained = self.notices().iter().find(|notice| notice.notice == Notice::AlsoTrained);
        Summary {
            files: self.files().to_vec(),
            format: self.format(),
            rows: self.len() + too_long,
            skipped: too_long,
            tokens: self.tokens(),
            supervised_tokens: self.supervised_tokens(),
            max_length: self.max_length,
            longer: too_long + truncated,
            truncated: self.long_rows == LongRows::Truncate,
            invalid,
            invalid_rows: self.invalid_rows().iter().map(describe).collect(),
            duplicates: self.duplicates(),
            also_trained: also_trained.map_or(0, |notice| notice.rows),
            histogram: histogram(&lengths),
            length: Quantiles::of(lengths),
            supervised_length: Quantiles::of(self.rows().iter().map(Row::supervised_tokens).collect()),
            notices: self.file_notices().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_numbers_of_rows() {
        let quantiles = Quantiles::of((1..=200).rev().collect());
        assert_eq!(quantiles, Quantiles { least: 1, median: 100, p90: 180, p95: 190, p99: 198, most: 200 });
        let one = Quantiles::of(vec![7]);
        assert_eq!((one.least, one.median, one.p99, one.most), (7, 7, 7, 7));
        assert_eq!(Quantiles::of(Vec::new()), Quantiles::default());
    }

    #[test]
    fn every_row_is_in_one_bin() {
        let bins = histogram(&[3, 4, 7, 8, 40]);
        let counts: Vec<(usize, usize, usize)> =
            bins.iter().map(|bin| (bin.from, bin.to, bin.rows)).collect();
        assert_eq!(counts, [(2, 3, 1), (4, 7, 2), (8, 15, 1), (16, 31, 0), (32, 63, 1)]);
    }
}
