//! What training costs in what no task asks for: what is measured only, by method, against the base model.

use cpift_model::compare::results::{Comparison, RowKind};

use super::{budget_title, interval_caption};
use crate::display::comparison::measures_table;
use crate::report::document::{Block, Data, Section, number};

/// The section; none where nothing is measured only.
pub fn section(comparison: &Comparison) -> Option<Section> {
    let methods: Vec<_> = comparison.methods.iter().filter(|method| method.kind == RowKind::Method).collect();
    let mut table = measures_table(comparison, &methods)?;
    let cells = table.rows.iter_mut().flat_map(|row| row.iter_mut().skip(1));
    cells.for_each(|cell| *cell = cell.replace('-', "−"));
    table.caption = format!(
        "Rows that are measured and never trained; they count in no other table. Of every method: the loss (nats per \
         supervised token) and the share of right answers (points) less those of the base model with the same seed. {}",
        interval_caption(comparison)
    );
    Some(Section { id: "measures", title: "What no task asks for", blocks: vec![Block::Table(table)] })
}

/// `measures.csv`: a line per row, seed and measure; none where nothing is measured only.
pub fn data(comparison: &Comparison) -> Option<Data> {
    if comparison.measures.is_empty() {
        return None;
    }
    let headings = [
        "row",
        "budgets",
        "steps",
        "seed",
        "measure",
        "loss",
        "base_loss",
        "score_kind",
        "score",
        "base_score",
    ];
    let mut data = Data::new("measures", &headings);
    for method in &comparison.methods {
        let budgets: Vec<&str> = method.budgets.iter().map(|&budget| budget_title(budget)).collect();
        for (run, reference) in method.runs.iter().zip(&comparison.references) {
            let scores = run.measures.iter().zip(&reference.measures);
            for (name, (score, base)) in comparison.measures.iter().zip(scores) {
                data.row([
                    method.name.clone(),
                    budgets.join("; "),
                    (method.specialist_steps + method.steps).to_string(),
                    run.seed.to_string(),
                    name.clone(),
                    score.loss.to_string(),
                    base.loss.to_string(),
                    score.score_kind.name().to_owned(),
                    number(score.share()),
                    number(base.share()),
                ]);
            }
        }
    }
    Some(data)
}
