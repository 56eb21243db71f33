//! What fusion did: the angles of the SLERP fold, what was transplanted, what conflicted.

use cpift_model::progress::{FusionReport, SlerpReport};
use cpift_model::stages::core::kind;

use super::Context;
use crate::display::reports::{FoldAngles, fold_angles, folded_tasks};
use crate::display::units::{grouped, percent};
use crate::report::chart::dots::{Dot, DotChart, Marker};
use crate::report::chart::{NARROW, Shape};
use crate::report::document::{Block, Data, Figure, Section, Table};

const SLERP: Marker = Marker { shape: Shape::Dot, class: "f1 dense" };
const LERP: Marker = Marker { shape: Shape::Cross, class: "hollow s2" };

/// The section `Fusion`; none before stage 3.
pub fn section(context: &Context<'_>) -> Option<Section> {
    let report = context.run.fusion.as_ref()?;
    let mut blocks = vec![Block::Facts(facts(report))];
    if !report.slerps.is_empty() {
        blocks.push(angles(report));
        blocks.push(Block::Table(table(report)));
    }
    Some(Section { id: "fusion", title: "Fusion", blocks })
}

fn facts(report: &FusionReport) -> Vec<(String, String)> {
    let of_conflicts = report.sign_conflicts as f64 / report.conflicts.max(1) as f64;
    let linear = report.slerps.iter().filter(|slerp| slerp.fallback.is_some()).count();
    let mut facts = vec![
        ("backbone".to_owned(), report.backbone.clone()),
        (
            "transplanted".to_owned(),
            format!("{} parameters, in exactly one core", grouped(report.transplanted)),
        ),
        ("conflicts".to_owned(), format!("{} parameters, in several cores", grouped(report.conflicts))),
        (
            "opposite signs".to_owned(),
            format!(
                "{} of these ({}) were moved to both sides",
                grouped(report.sign_conflicts),
                percent(of_conflicts)
            ),
        ),
    ];
    if !report.slerps.is_empty() {
        let all = report.slerps.len();
        facts.push(("fell back to LERP".to_owned(), format!("{linear} of {all} interpolations")));
    }
    facts
}

fn angles(report: &FusionReport) -> Block {
    let mut kinds: Vec<String> = Vec::new();
    for slerp in &report.slerps {
        let kind = kind(&slerp.tensor);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let most = report.slerps.iter().map(|slerp| slerp.angle.to_degrees()).filter(|angle| angle.is_finite());
    let most = most.fold(1e-3, f64::max);
    let dot = |slerp: &SlerpReport| Dot {
        row: kinds.iter().position(|known| *known == kind(&slerp.tensor)).unwrap_or(0),
        value: slerp.angle.to_degrees(),
        marker: if slerp.fallback.is_some() { LERP } else { SLERP },
        tip: match &slerp.fallback {
            Some(reason) => format!("{}: LERP ({reason})", slerp.tensor),
            None => format!("{}: {:.2}°", slerp.tensor, slerp.angle.to_degrees()),
        },
    };
    let linear = report.slerps.iter().any(|slerp| slerp.fallback.is_some());
    let figure = |task: &str| {
        let of_task = report.slerps.iter().filter(|slerp| slerp.task == task);
        let legend = [(SLERP, "SLERP".to_owned()), (LERP, "LERP instead".to_owned())];
        let chart = DotChart {
            title: format!("folding in {task}"),
            x_label: "angle, degrees".to_owned(),
            legend: if linear { legend.to_vec() } else { Vec::new() },
            rows: kinds.clone(),
            dots: of_task.map(dot).collect(),
            range: Some((0.0, most * 1.04)),
            joined: false,
        };
        Figure::narrow(
            format!("angles-{task}"),
            format!("angles when {task} is folded in"),
            chart.draw(NARROW),
        )
    };
    Block::Figures {
        caption: "Angle between the model folded so far and the next task’s, a dot for every tensor (one per layer in each \
                  row), core parameters left out: how far SLERP turns. Tensors marked × were interpolated linearly."
            .to_owned(),
        figures: folded_tasks(report).into_iter().map(figure).collect(),
    }
}

fn table(report: &FusionReport) -> Table {
    let mut table = Table::captioned(
        "Angles in degrees, over the tensors of each step of the fold.",
        ["folded in", "tensors", "least", "median", "largest", "LERP"],
    );
    for FoldAngles { task, tensors, degrees, linear } in fold_angles(report) {
        let [least, median, largest] = degrees.map(|angle| format!("{angle:.2}"));
        table.row([task.to_owned(), tensors.to_string(), least, median, largest, linear.to_string()]);
    }
    table
}

/// `angles.csv`.
pub fn data(context: &Context<'_>) -> Option<Data> {
    let report = context.run.fusion.as_ref()?;
    let mut data = Data::new("angles", &["task", "tensor", "kind", "radians", "fallback"]);
    for slerp in &report.slerps {
        data.row([
            slerp.task.clone(),
            slerp.tensor.clone(),
            kind(&slerp.tensor),
            slerp.angle.to_string(),
            slerp.fallback.clone().unwrap_or_default(),
        ]);
    }
    Some(data)
}
