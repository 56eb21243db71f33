//! Tables of `bench kernels`: what was measured, and what is predicted, which never share a column.

use cpift_model::bench::kernels::{Limit, Report, Row};
use cpift_model::bench::predict::{Gpu, Prediction};

use super::table::Table;
use super::units;

/// The measurements, each with the rate of what limits it.
pub fn measured(report: &Report) -> String {
    let mut table = Table::new(["kernel", "shape", "ms", "rate", "limit", "share"]);
    for row in &report.kernels {
        table.row([
            row.name.clone(),
            row.shape.clone(),
            milliseconds(row.milliseconds),
            rate(row),
            limit(row.limit).to_owned(),
            units::percent(row.share),
        ]);
    }
    let notes: String = report.notes.iter().map(|note| format!("\n{note}")).collect();
    format!(
        "{}\n\n{}\nceilings: copy {}, read {}, matrix product {}{notes}\n",
        heading(report),
        table.render(),
        bytes_per_second(report.copy_bytes_per_second),
        bytes_per_second(report.read_bytes_per_second),
        units::flops_per_second(report.matrix_flops_per_second),
    )
}

/// Predictions by case and GPU. On one GPU with the launch that takes longest, and with the times measured there,
/// if there are any; on several the times alone.
pub fn predicted(
    heading: &str,
    gpus: &[Gpu],
    predictions: &[Vec<Prediction>],
    measured: Option<&Report>,
) -> String {
    let table = match gpus {
        [_] => predicted_on_one(predictions, measured),
        _ => {
            let headings = gpus.iter().map(|gpu| gpu.name);
            let mut table = Table::new(["kernel", "shape"].into_iter().chain(headings));
            for by_gpu in predictions {
                let Some(first) = by_gpu.first() else { continue };
                let times = by_gpu.iter().map(prediction);
                table.row([first.name.clone(), first.shape.clone()].into_iter().chain(times));
            }
            table
        }
    };
    let products: Vec<&str> = gpus.iter().map(|gpu| gpu.product).collect();
    let on = measured.map(|report| format!("\nmeasured on {}", report.device)).unwrap_or_default();
    format!(
        "predicted, not measured: milliseconds on {}; {heading}\n\n{}\n\
         a bound from vendors' figures, the kernels' contracts and the assembler's registers{on}\n",
        products.join(", "),
        table.render(),
    )
}

fn predicted_on_one(predictions: &[Vec<Prediction>], measured: Option<&Report>) -> Table {
    let mut headings = vec!["kernel", "shape", "predicted", "limit", "runs", "regs", "occup."];
    headings.extend(measured.map(|_| "measured"));
    let mut table = Table::new(headings);
    for predicted in predictions.iter().flatten() {
        let Some(longest) = predicted.longest_launch() else { continue };
        let mut cells = vec![
            predicted.name.clone(),
            predicted.shape.clone(),
            prediction(predicted),
            limit(predicted.predicted_limit).to_owned(),
            predicted.launches.iter().map(|launch| launch.count).sum::<usize>().to_string(),
            longest.registers.to_string(),
            format!("{:.0} %", 100.0 * longest.occupancy),
        ];
        let same = |row: &&Row| row.name == predicted.name && row.shape == predicted.shape;
        let row = measured.and_then(|report| report.kernels.iter().find(same));
        cells.extend(row.map(|row| milliseconds(row.milliseconds)));
        table.row(cells);
    }
    table
}

/// The time, or that there is none.
fn prediction(prediction: &Prediction) -> String {
    prediction.predicted_milliseconds.map_or_else(|| "does not fit".to_owned(), milliseconds)
}

fn heading(report: &Report) -> String {
    format!(
        "{}, {}, {} tokens in documents of {}",
        report.device, report.precision, report.tokens, report.length
    )
}

fn rate(row: &Row) -> String {
    match row.limit {
        Limit::Memory => bytes_per_second(row.bytes_per_second),
        Limit::Compute => units::flops_per_second(row.flops_per_second),
    }
}

fn limit(limit: Limit) -> &'static str {
    match limit {
        Limit::Memory => "memory",
        Limit::Compute => "compute",
    }
}

fn bytes_per_second(value: f64) -> String {
    format!("{} GB/s", three_digits(value / 1e9))
}

/// Three significant digits, at least two of them behind the point below 10.
fn three_digits(value: f64) -> String {
    match value {
        value if value < 0.0995 => format!("{value:.4}"),
        value if value < 0.9995 => format!("{value:.3}"),
        value if value < 9.995 => format!("{value:.2}"),
        value if value < 99.95 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

fn milliseconds(value: f64) -> String {
    three_digits(value)
}
