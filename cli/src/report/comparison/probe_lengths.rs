//! Importance after probes of several lengths: how far cores agree, and what they are worth by themselves.

use cpift_model::compare::results::{Agreement, Comparison, Interval, LengthResults, SaliencyAtLength};
use cpift_model::stages::saliency::Saliency;

use crate::display::probe_lengths::tables;
use crate::display::units::{grouped, percent};
use crate::report::chart::curves::{Curve, CurveChart};
use crate::report::chart::dots::Marker;
use crate::report::chart::{NARROW, Shape};
use crate::report::document::{Block, Data, Figure, Section, number};

/// Height of a chart without its legend.
const HEIGHT: f64 = 230.0;
/// Shares whose overlaps are drawn; the data have all.
const DRAWN: [f64; 2] = [0.01, 0.2];

/// The section `Length of probes`; none where it was not asked for.
pub fn section(comparison: &Comparison) -> Option<Section> {
    let lengths = comparison.probe_lengths.as_ref()?;
    let text = format!(
        "Every task’s probe after {} optimizer steps, at one learning rate from the first step on: a longer probe is a \
         shorter one that went on. Mean loss on their own tasks: {} for the base, then {}. Overlaps and correlations are \
         over {} of the {} parameters that can be in a core, the same in all probes.",
        listed(lengths.steps.iter().map(|steps| grouped(*steps))),
        three_digits(lengths.base_loss),
        listed(lengths.losses.iter().map(|loss| three_digits(*loss))),
        grouped(lengths.sampled),
        grouped(lengths.eligible)
    );
    let mut blocks = vec![Block::Text(text), agreement_figures(lengths)];
    if !lengths.transplants.is_empty() {
        blocks.push(gain_figures(lengths));
    }
    blocks.extend(tables(lengths).into_iter().map(Block::Table));
    Some(Section { id: "probe-lengths", title: "Length of probes", blocks })
}

fn listed(values: impl Iterator<Item = String>) -> String {
    values.collect::<Vec<_>>().join(", ")
}

fn three_digits(loss: f64) -> String {
    format!("{loss:.3}")
}

/// How a saliency's curve looks.
fn look(saliency: Option<Saliency>) -> (Marker, &'static str) {
    let (shape, class, line) = match saliency {
        Some(Saliency::Net) => (Shape::Circle, "f2", "strong s2"),
        Some(Saliency::Path) => (Shape::Square, "f1", "s1"),
        Some(Saliency::Fisher) => (Shape::Triangle, "f3", "s3"),
        Some(Saliency::NetGradient) => (Shape::Diamond, "f4", "s4"),
        Some(Saliency::NetPath) => (Shape::Dot, "f5", "s5"),
        Some(Saliency::FisherNet) => (Shape::Diamond, "f6", "s6"),
        Some(Saliency::NetPerRoot) => (Shape::Square, "f4", "s4"),
        None => (Shape::Dot, "f0 dense", "axis"),
    };
    (Marker { shape, class }, line)
}

fn curve(
    lengths: &LengthResults,
    saliency: Saliency,
    value: impl Fn(&SaliencyAtLength) -> Option<Interval>,
) -> Curve {
    let of_measure = lengths.saliencies.iter().filter(|found| found.saliency == saliency);
    let point = |found: &SaliencyAtLength| value(found).map(|value| (found.steps as f64, value.mean));
    let (marker, line) = look(Some(saliency));
    Curve { name: saliency.name().to_owned(), marker, line, points: of_measure.filter_map(point).collect() }
}

fn figure(name: String, chart: &CurveChart) -> Figure {
    Figure::narrow(name, chart.title.clone(), chart.draw(NARROW, HEIGHT))
}

fn agreement_figures(lengths: &LengthResults) -> Block {
    let mut figures = Vec::new();
    for (place, fraction) in lengths.fractions.iter().enumerate().filter(|(_, share)| DRAWN.contains(share)) {
        for (kind, title) in [("seeds", "Two seeds"), ("tasks", "Two tasks")] {
            let value = |found: &SaliencyAtLength| of_kind(&found.overlaps[place], kind);
            let curves: Vec<Curve> =
                Saliency::ALL.into_iter().map(|saliency| curve(lengths, saliency, value)).collect();
            if curves.iter().all(|curve| curve.points.is_empty()) {
                continue;
            }
            let chart = CurveChart {
                title: format!("{title}: overlap of cores of {}", percent(*fraction)),
                y_label: "Jaccard".to_owned(),
                x_label: "steps".to_owned(),
                curves,
                mark: Some((lengths.chance[place], "chance".to_owned())),
            };
            figures.push(figure(format!("probe-lengths-{kind}-{fraction}"), &chart));
        }
    }
    Block::Figures {
        caption: "|C ∩ C′| / |C ∪ C′| of cores by seven measures of importance: above, of one task with two seeds, which \
                  is the most that two tasks could come to; of two tasks with one seed. Orange circles: the paper’s."
            .to_owned(),
        figures,
    }
}

fn of_kind(agreement: &Agreement, kind: &str) -> Option<Interval> {
    match kind {
        "seeds" => agreement.seeds,
        "tasks" => agreement.tasks,
        _ => agreement.longest,
    }
}

fn gain_figures(lengths: &LengthResults) -> Block {
    let chart = |(place, fraction): (usize, &f64)| {
        let gain = |gain: Option<Interval>| gain.map(|gain| Interval { mean: 100.0 * gain.mean, ..gain });
        let mut curves: Vec<Curve> = Saliency::ALL
            .into_iter()
            .map(|saliency| curve(lengths, saliency, |found| gain(found.gains[place])))
            .collect();
        let (marker, line) = look(None);
        let points = lengths.steps.iter().zip(&lengths.random_gains);
        let point = |(&steps, gains): (&u64, &Vec<Option<Interval>>)| {
            gains[place].map(|gain| (steps as f64, 100.0 * gain.mean))
        };
        curves.push(Curve {
            name: "random".to_owned(),
            marker,
            line,
            points: points.filter_map(point).collect(),
        });
        let chart = CurveChart {
            title: format!("{} transplanted into the base", percent(*fraction)),
            y_label: "of the probe’s gain, %".to_owned(),
            x_label: "steps".to_owned(),
            curves,
            mark: None,
        };
        figure(format!("probe-lengths-gain-{fraction}"), &chart)
    };
    Block::Figures {
        caption: "What a core is worth by itself: the loss on the probe’s task of the base with these parameters of the \
                  probe, as a share of what the whole probe gains over the base; by saliency, and of random parameters."
            .to_owned(),
        figures: lengths.transplants.iter().enumerate().map(chart).collect(),
    }
}

/// `probe-lengths.csv`: a line per saliency, length and fraction.
pub fn data(comparison: &Comparison) -> Option<Data> {
    let lengths = comparison.probe_lengths.as_ref()?;
    let mut data =
        Data::new("probe-lengths", &["saliency", "steps", "fraction", "what", "mean", "half_width"]);
    let mut row = |saliency: &str, steps: u64, fraction: Option<f64>, what: &str, value: Option<Interval>| {
        data.row([
            saliency.to_owned(),
            steps.to_string(),
            number(fraction),
            what.to_owned(),
            number(value.map(|value| value.mean)),
            number(value.and_then(|value| value.half_width)),
        ]);
    };
    for found in &lengths.saliencies {
        let (saliency, steps) = (found.saliency.name(), found.steps);
        for kind in ["seeds", "tasks", "longest"] {
            let value = of_kind(&found.correlation, kind);
            row(saliency, steps, None, &format!("correlation, {kind}"), value);
            for (fraction, overlap) in lengths.fractions.iter().zip(&found.overlaps) {
                row(saliency, steps, Some(*fraction), &format!("overlap, {kind}"), of_kind(overlap, kind));
            }
        }
        for (fraction, gain) in lengths.transplants.iter().zip(&found.gains) {
            row(saliency, steps, Some(*fraction), "gain", *gain);
        }
    }
    for (steps, gains) in lengths.steps.iter().zip(&lengths.random_gains) {
        for (fraction, gain) in lengths.transplants.iter().zip(gains) {
            row("random", *steps, Some(*fraction), "gain", *gain);
        }
    }
    Some(data)
}
