//! The report of a merge's number tried at several values.

use std::path::Path;

use cpift_model::files::read_json;
use cpift_model::sweep::{SWEEP_FILE, SweepReport};
use cpift_model::{Error, Result};

use super::chart::lines::LineChart;
use super::document::{Block, Data, Document, Figure, Section, number};
use crate::display::sweeping::{measured, table};
use crate::display::units::counted;

/// What the folder of a merged model says of the sweep that made it; none where it is another folder.
pub fn read(folder: &Path) -> Result<Option<SweepReport>> {
    let path = folder.join(SWEEP_FILE);
    let report: Option<SweepReport> = read_json(&path)?;
    match report {
        Some(report) if report.best >= report.points.len() => {
            Err(Error::format(&path, "names a best value that is not there"))
        }
        report => Ok(report),
    }
}

/// The report.
pub fn document(report: &SweepReport, title: String) -> Document {
    let (key, best) = (report.key.name(), &report.points[report.best]);
    let chart = |what: &str, value: &dyn Fn(usize) -> Option<f64>| {
        let mut values: Vec<(f64, f64)> = (0..report.points.len())
            .filter_map(|index| Some((report.points[index].value, value(index)?)))
            .collect();
        values.sort_by(|a, b| a.0.total_cmp(&b.0));
        let chart = LineChart {
            title: format!("{what} by {key}"),
            y_label: format!("{what}, mean over the files"),
            x_label: key.to_owned(),
            values,
            colour: 1,
            ..LineChart::default()
        };
        Figure::wide(what, format!("{what} by {key}"), move |width| chart.draw(width, 260.0))
    };
    let mut figures = vec![chart("loss", &|index| Some(report.points[index].loss))];
    if report.by_score {
        figures.push(chart("score", &|index| report.points[index].score));
    }
    let mut data = Data::new("sweep", &[key, "file", "loss", "score"]);
    for point in &report.points {
        for file in &point.files {
            let path = file.path.display().to_string();
            data.row([point.value.to_string(), path, file.loss.to_string(), number(file.score)]);
        }
    }
    let values = counted(report.points.len() as u64, "value");
    let caption = format!("Every value merged and measured; the best is {key} {}.", best.value);
    Document {
        title,
        lead: format!("{values} of {key}: {} is the best, {}", best.value, measured(best)),
        sections: vec![Section {
            id: "sweep",
            title: "Values",
            blocks: vec![Block::Figures { caption, figures }, Block::Table(table(report))],
        }],
        data: vec![data],
    }
}
