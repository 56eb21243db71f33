//! What ranks have to have in common before they train: version and recipe. Models and data are read by rank 0 alone.

use cpift_engine::Ranks;

use crate::error::Result;

/// Which ranks differ from rank 0, and in what. The same on every rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disagreement {
    /// The first rank that differs.
    pub rank: usize,
    /// The first thing in which it does, by its name.
    pub what: &'static str,
}

/// Compares what ranks have, by name, with what rank 0 has; by hashes. All ranks have to call it with the same names.
///
/// # Errors
/// Another rank has ended.
pub fn compare(ranks: &Ranks, facts: &[(&'static str, &str)]) -> Result<Option<Disagreement>> {
    for &(what, text) in facts {
        let own = *blake3::hash(text.as_bytes()).as_bytes();
        let mut of_first = own;
        ranks.broadcast_slice(&mut of_first)?;
        let mut differing = vec![0_u64; ranks.size()];
        differing[ranks.rank()] = u64::from(own != of_first);
        ranks.count(&mut differing)?;
        if let Some(rank) = differing.iter().position(|&differs| differs > 0) {
            return Ok(Some(Disagreement { rank, what }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use cpift_engine::ranks::threads;

    use super::*;

    #[test]
    fn the_first_that_differs_is_named_on_every_rank() {
        let compared = |recipes: [&'static str; 3]| {
            let ranks = threads(3).into_iter().zip(recipes);
            let started = ranks.map(|(ranks, recipe)| {
                std::thread::spawn(move || compare(&ranks, &[("version", "1"), ("recipe", recipe)]).unwrap())
            });
            let started: Vec<_> = started.collect();
            started.into_iter().map(|rank| rank.join().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(compared(["a", "a", "a"]), [None, None, None]);
        let third = Some(Disagreement { rank: 2, what: "recipe" });
        assert_eq!(compared(["a", "a", "b"]), [third.clone(), third.clone(), third]);
    }
}
