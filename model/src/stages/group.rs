//! Stage 2: groups of tasks whose cores overlap.

use cpift_engine::Mask;

use crate::data::order;
use crate::error::{Error, Result};
use crate::recipe::{GroupOrder, GroupSettings, Linkage};

/// Groups tasks by the overlap of their cores: an edge where `jaccard[i][j]` reaches the threshold, then
/// connected components or complete linkage. Groups come in training order, tasks ascending in each.
pub fn group(jaccard: &[Vec<f64>], settings: &GroupSettings, seed: u64) -> Vec<Vec<usize>> {
    let mut groups = match settings.linkage {
        Linkage::Components => components(jaccard, settings.threshold),
        Linkage::Complete => complete(jaccard, settings.threshold),
    };
    groups.sort_by_key(|members| members[0]);
    if settings.order == GroupOrder::Shuffled {
        order::shuffle(&mut groups, &mut order::stream(seed, "group order", 0, 0));
    }
    groups
}

/// The overlap two independent cores have by chance when each holds `fraction` of all parameters.
pub fn chance_overlap(fraction: f64) -> f64 {
    fraction / (2.0 - fraction)
}

/// Which way a task's fine-tune moved the parameters of its core: two bits for each of these, by ascending index. What
/// did not move is on neither side.
#[derive(Debug, Clone, PartialEq)]
pub struct UpdateSigns {
    up: Mask,
    down: Mask,
    /// Parameters that are known.
    known: usize,
}

impl UpdateSigns {
    /// Of a core of so many parameters, none of them known yet.
    pub fn new(parameters: usize) -> Self {
        Self { up: Mask::zeros(parameters), down: Mask::zeros(parameters), known: 0 }
    }

    /// Adds the next of the core's values before and after. Panics when they are more than the core has.
    pub fn push(&mut self, before: &[f32], after: &[f32]) {
        for (before, after) in before.iter().zip(after) {
            self.push_one(after > before, after < before);
        }
    }

    /// Adds the next of the core's parameters, one that moved. Panics when they are more than the core has.
    pub fn push_moved(&mut self, up: bool) {
        self.push_one(up, !up);
    }

    fn push_one(&mut self, up: bool, down: bool) {
        self.up.set(self.known, up);
        self.down.set(self.known, down);
        self.known += 1;
    }

    /// Number of parameters that both tasks moved the same way; `core` and `other_core` are the cores that the signs are
    /// of, all known.
    ///
    /// # Errors
    /// When the cores are over different numbers of parameters, or of other sizes than the signs.
    pub fn agreeing(&self, core: &Mask, other: &Self, other_core: &Mask) -> Result<usize> {
        for (signs, core) in [(self, core), (other, other_core)] {
            if signs.known != core.count() {
                let reason = format!("signs of {} parameters of a core of {}", signs.known, core.count());
                return Err(Error::Job(reason));
            }
        }
        core.intersection_count(other_core)?;
        let (mut before, mut before_other, mut agreeing) = (0, 0, 0);
        for (&word, &other_word) in core.words().iter().zip(other_core.words()) {
            let mut shared = word & other_word;
            while shared != 0 {
                let below = (1 << shared.trailing_zeros()) - 1;
                let place = before + (word & below).count_ones() as usize;
                let other_place = before_other + (other_word & below).count_ones() as usize;
                let both = |own: &Mask, other: &Mask| own.get(place) && other.get(other_place);
                agreeing += usize::from(both(&self.up, &other.up) || both(&self.down, &other.down));
                shared &= shared - 1;
            }
            before += word.count_ones() as usize;
            before_other += other_word.count_ones() as usize;
        }
        Ok(agreeing)
    }
}

fn components(jaccard: &[Vec<f64>], threshold: f64) -> Vec<Vec<usize>> {
    let tasks = jaccard.len();
    let mut component: Vec<usize> = (0..tasks).collect();
    for first in 0..tasks {
        for second in first + 1..tasks {
            let (old, new) = (component[second], component[first]);
            if jaccard[first][second] >= threshold && old != new {
                component.iter_mut().filter(|label| **label == old).for_each(|label| *label = new);
            }
        }
    }
    let members = |label| (0..tasks).filter(|&task| component[task] == label).collect::<Vec<_>>();
    (0..tasks).map(members).filter(|members| !members.is_empty()).collect()
}

/// Merges the two groups whose least overlap is largest, as long as that reaches the threshold; of
/// equals the first pair.
fn complete(jaccard: &[Vec<f64>], threshold: f64) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = (0..jaccard.len()).map(|task| vec![task]).collect();
    let least_overlap = |a: &[usize], b: &[usize]| {
        a.iter().flat_map(|&i| b.iter().map(move |&j| jaccard[i][j])).fold(f64::INFINITY, f64::min)
    };
    loop {
        let mut best: Option<(f64, usize, usize)> = None;
        for first in 0..groups.len() {
            for second in first + 1..groups.len() {
                let overlap = least_overlap(&groups[first], &groups[second]);
                if overlap >= threshold && best.is_none_or(|(most, ..)| overlap > most) {
                    best = Some((overlap, first, second));
                }
            }
        }
        let Some((_, first, second)) = best else { return groups };
        let absorbed = groups.remove(second);
        groups[first].extend(absorbed);
        groups[first].sort_unstable();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A symmetric matrix from its upper triangle, row by row.
    fn matrix(tasks: usize, upper: &[f64]) -> Vec<Vec<f64>> {
        let mut matrix = vec![vec![1.0; tasks]; tasks];
        let pairs = (0..tasks).flat_map(|i| (i + 1..tasks).map(move |j| (i, j)));
        for ((i, j), &value) in pairs.zip(upper) {
            matrix[i][j] = value;
            matrix[j][i] = value;
        }
        matrix
    }

    #[test]
    fn moves_are_compared_where_both_cores_have_bits() {
        let core = |members: &[usize]| {
            let mut core = Mask::zeros(100);
            members.iter().for_each(|&index| core.set(index, true));
            core
        };
        // Of the shared 3, 64, 65, 70 and 99: both up, both down, opposite, one unmoved, both unmoved.
        let (one, two) = (core(&[3, 7, 64, 65, 70, 99]), core(&[2, 3, 64, 65, 70, 99]));
        let mut first = UpdateSigns::new(6);
        first.push(&[1.0, 1.0], &[1.5, 2.0]);
        assert!(first.agreeing(&one, &first, &one).is_err(), "four are not known");
        first.push(&[0.5, -2.0, 4.0, 6.0], &[0.4, -1.0, 4.0, 6.0]);
        let mut second = UpdateSigns::new(6);
        second.push(&[1.0, -1.0, 0.5, -2.0, 4.0, 6.0], &[1.5, -0.9, 0.3, -3.0, 5.0, 6.0]);
        assert_eq!(first.agreeing(&one, &second, &two).unwrap(), 2);
        assert_eq!(second.agreeing(&two, &first, &one).unwrap(), 2);
        assert_eq!(first.agreeing(&one, &first, &one).unwrap(), 4);
        assert_eq!(first.up.indices().collect::<Vec<_>>(), [0, 1, 3]);
        assert_eq!(first.agreeing(&one, &UpdateSigns::new(0), &core(&[])).unwrap(), 0);
    }

    fn settings(threshold: f64, linkage: Linkage) -> GroupSettings {
        GroupSettings { threshold, linkage, order: GroupOrder::Given }
    }

    #[test]
    fn components_chain_and_complete_linkage_does_not() {
        // 0-1 and 1-2 overlap, 0-2 do not; 3 is alone.
        let jaccard = matrix(4, &[0.3, 0.05, 0.0, 0.2, 0.0, 0.0]);
        assert_eq!(group(&jaccard, &settings(0.1, Linkage::Components), 0), [vec![0, 1, 2], vec![3]]);
        assert_eq!(group(&jaccard, &settings(0.1, Linkage::Complete), 0), [vec![0, 1], vec![2], vec![3]]);
    }

    #[test]
    fn an_overlap_equal_to_the_threshold_is_an_edge() {
        let jaccard = matrix(2, &[0.1]);
        assert_eq!(group(&jaccard, &settings(0.1, Linkage::Components), 0), [vec![0, 1]]);
    }

    #[test]
    fn threshold_zero_joins_all_and_above_one_none() {
        let jaccard = matrix(3, &[0.0, 0.0, 0.0]);
        for linkage in [Linkage::Components, Linkage::Complete] {
            assert_eq!(group(&jaccard, &settings(0.0, linkage), 0), [vec![0, 1, 2]]);
            assert_eq!(group(&jaccard, &settings(1.5, linkage), 0).len(), 3);
        }
    }

    #[test]
    fn the_shuffled_order_follows_the_seed() {
        let jaccard = matrix(6, &[0.0; 15]);
        let shuffled = GroupSettings { threshold: 0.5, order: GroupOrder::Shuffled, ..Default::default() };
        let orders: Vec<_> = (0..20).map(|seed| group(&jaccard, &shuffled, seed)).collect();
        assert_eq!(orders[3], group(&jaccard, &shuffled, 3));
        assert!(orders.iter().any(|order| *order != orders[0]));
        for mut order in orders {
            order.sort();
            assert_eq!(order, (0..6).map(|task| vec![task]).collect::<Vec<_>>());
        }
    }
}
