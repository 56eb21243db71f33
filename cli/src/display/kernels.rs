//! Tables of `bench kernels`.

use cpift_model::bench::kernels::{Limit, Report, Row};

use super::table::Table;
use super::units;

/// The measurements, each with the rate of what limits it.
pub fn measured(report: &Report) -> String {
    let cublas = report.kernels.iter().any(|row| row.cublas_milliseconds.is_some());
    let mut headings = vec!["kernel", "shape", "ms", "rate", "limit", "share"];
    headings.extend(cublas.then_some("cuBLAS ms"));
    let mut table = Table::new(headings);
    for row in &report.kernels {
        let mut cells = vec![
            row.name.clone(),
            row.shape.clone(),
            milliseconds(row.milliseconds),
            rate(row),
            limit(row.limit).to_owned(),
            units::percent(row.share),
        ];
        cells.extend(row.cublas_milliseconds.map(milliseconds));
        table.row(cells);
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
