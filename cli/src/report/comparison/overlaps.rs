//! How far cores agree: between tasks, between kinds of importance, between seeds of one task.

use cpift_model::compare::results::Comparison;

use crate::report::chart::Shape;
use crate::report::chart::dots::{Dot, DotChart, Marker};
use crate::report::chart::lines::significant;
use crate::report::document::{Block, Data, Figure, Section};

/// One overlap of a task's core with another core.
struct Overlap {
    task: usize,
    kind: String,
    /// The other core.
    with: String,
    jaccard: f64,
}

/// Looks by what the core is compared with; kinds of importance take the later ones in turn.
const BETWEEN_TASKS: Marker = Marker { shape: Shape::Dot, class: "f0 dense" };
const BETWEEN_SEEDS: Marker = Marker { shape: Shape::Circle, class: "f1" };
const IMPORTANCES: [Marker; 3] = [
    Marker { shape: Shape::Diamond, class: "f5" },
    Marker { shape: Shape::Square, class: "f4" },
    Marker { shape: Shape::Triangle, class: "f3" },
];

/// The section `Overlaps`; none before there are cores.
pub fn section(comparison: &Comparison) -> Option<Section> {
    let overlaps = overlaps(comparison);
    if overlaps.is_empty() {
        return None;
    }
    let mut kinds: Vec<&str> = overlaps.iter().map(|overlap| overlap.kind.as_str()).collect();
    kinds.sort_by_key(|kind| overlaps.iter().position(|overlap| overlap.kind == **kind));
    kinds.dedup();
    let importances: Vec<&str> =
        kinds.iter().copied().filter(|kind| !matches!(*kind, "other tasks" | "other seeds")).collect();
    let marker = |kind: &str| match kind {
        "other tasks" => BETWEEN_TASKS,
        "other seeds" => BETWEEN_SEEDS,
        _ => {
            let index = importances.iter().position(|importance| *importance == kind).unwrap_or(0);
            IMPORTANCES[index % IMPORTANCES.len()]
        }
    };
    let dot = |overlap: &Overlap| Dot {
        row: overlap.task,
        value: overlap.jaccard,
        marker: marker(&overlap.kind),
        tip: format!(
            "{} with {}: {}",
            comparison.tasks[overlap.task],
            overlap.with,
            significant(overlap.jaccard)
        ),
    };
    let chance = chance(comparison);
    let chart = DotChart {
        title: "Overlap of every task’s core with".to_owned(),
        x_label: "Jaccard".to_owned(),
        legend: kinds.iter().map(|kind| (marker(kind), (*kind).to_owned())).collect(),
        rows: comparison.tasks.clone(),
        dots: overlaps.iter().map(dot).collect(),
        range: None,
        joined: false,
    };
    let chance = chance.map_or(String::new(), |chance| {
        format!(" Two random cores of this size would have {}.", significant(chance))
    });
    let caption = format!(
        "|C ∩ C′| / |C ∪ C′| of a task’s core (by the recipe’s importance) with the cores of other tasks and the same seed, with \
         its own cores by other kinds of importance, and with its own cores from other seeds: the last is the most that an \
         overlap between tasks could come to.{chance}"
    );
    let figures = vec![Figure::wide("overlaps", "overlap of every task’s core with others", |width| {
        chart.draw(width)
    })];
    Some(Section { id: "overlap", title: "Overlaps", blocks: vec![Block::Figures { caption, figures }] })
}

fn chance(comparison: &Comparison) -> Option<f64> {
    let of_cores = comparison.cores.first().map(|seed| seed.groups.chance);
    comparison.overlaps.as_ref().map(|overlaps| overlaps.chance).or(of_cores)
}

fn overlaps(comparison: &Comparison) -> Vec<Overlap> {
    let mut found = Vec::new();
    for seed in &comparison.cores {
        for (task, row) in seed.groups.jaccard.iter().enumerate() {
            for (other, jaccard) in row.iter().enumerate().filter(|(other, _)| *other != task) {
                let with = format!("{}, seed {}", comparison.tasks[other], seed.seed);
                found.push(Overlap { task, kind: "other tasks".to_owned(), with, jaccard: *jaccard });
            }
        }
    }
    if let Some(overlaps) = &comparison.overlaps {
        for overlap in &overlaps.importance {
            found.push(Overlap {
                task: overlap.task,
                kind: format!("importance {}", overlap.importance),
                with: format!("importance {}, seed {}", overlap.importance, overlap.seed),
                jaccard: overlap.jaccard,
            });
        }
        for overlap in &overlaps.seeds {
            found.push(Overlap {
                task: overlap.task,
                kind: "other seeds".to_owned(),
                with: format!("itself, seeds {} and {}", overlap.seeds[0], overlap.seeds[1]),
                jaccard: overlap.jaccard,
            });
        }
    }
    found
}

/// `overlaps.csv`.
pub fn data(comparison: &Comparison) -> Data {
    let mut data = Data::new("overlaps", &["task", "kind", "with", "jaccard"]);
    for overlap in overlaps(comparison) {
        let task = comparison.tasks[overlap.task].clone();
        data.row([task, overlap.kind, overlap.with, overlap.jaccard.to_string()]);
    }
    data
}
