//! Stage 4: how much of the model was frozen in each part.

use cpift_model::progress::TrainingStage;

use super::Context;
use super::training::phase_name;
use crate::display::units::grouped;
use crate::report::chart::NARROW;
use crate::report::chart::bars::{Bar, BarChart};
use crate::report::document::{Block, Figure, Section};

/// The section `Frozen cores`; none before stage 4.
pub fn section(context: &Context<'_>) -> Option<Section> {
    let steps: Vec<_> =
        context.run.steps.iter().filter(|step| step.stage == TrainingStage::Integrate).collect();
    let first = steps.first()?;
    let mut blocks = Vec::new();
    let mut text = format!(
        "Setting frozen = {}: {}",
        format!("{:?}", context.recipe.integrate.frozen).to_lowercase(),
        match context.recipe.integrate.frozen {
            cpift_model::recipe::Frozen::Prior => "in each part the cores of earlier groups keep their bits.",
            cpift_model::recipe::Frozen::Others =>
                "in each part the cores of all other groups keep their bits.",
            cpift_model::recipe::Frozen::All => "all cores keep their bits throughout.",
            cpift_model::recipe::Frozen::None => "nothing is frozen.",
            cpift_model::recipe::Frozen::Half => {
                "a random half of every tensor keeps its bits, another half in every part."
            }
        }
    );
    if context.run.frozen_verified > 0 {
        text.push_str(&format!(
            " At the end of every part the frozen parameters were compared with their bits from its beginning: {} in \
             all, none had changed.",
            grouped(context.run.frozen_verified)
        ));
    }
    blocks.push(Block::Text(text));
    match &context.run.record {
        Some(record) if first.phase > 0 => {
            let total = record.plan.parameters;
            let mut parts: Vec<(u64, u64)> = Vec::new();
            for step in &steps {
                if parts.last().is_none_or(|(phase, _)| *phase != step.phase) {
                    parts.push((step.phase, step.frozen));
                }
            }
            blocks.push(chart(context, &parts, total));
        }
        _ => blocks.push(Block::Text(
            "The version that made this run did not record what was frozen in each step.".to_owned(),
        )),
    }
    Some(Section { id: "frozen", title: "Frozen cores", blocks })
}

fn chart(context: &Context<'_>, parts: &[(u64, u64)], total: u64) -> Block {
    let bar = |&(phase, frozen): &(u64, u64)| {
        let share = 100.0 * frozen as f64 / total.max(1) as f64;
        Bar {
            name: format!("{phase} {}", phase_name(context, TrainingStage::Integrate, phase)),
            value: Some(share),
            error: None,
            text: format!("{share:.2} %"),
            colour: 1,
        }
    };
    let chart = BarChart {
        title: "Frozen share of the model by part".to_owned(),
        x_label: "% of all parameters".to_owned(),
        bars: parts.iter().map(bar).collect(),
        range: (0.0, 0.0),
    };
    Block::Figures {
        caption: format!(
            "Parameters frozen in each part of stage 4, of {} in all; parts are named by the group they are for.",
            grouped(total)
        ),
        figures: vec![Figure::narrow(
            "frozen-share",
            "frozen share of the model by part",
            chart.draw(NARROW),
        )],
    }
}
