//! Tables of `bench kernels`: what was measured, and what is predicted, which never share a column.

use cpift_model::table::Table;

use cpift_benches::kernels::{Limit, Report, Row};
use cpift_benches::predict::{Gpu, Prediction};

use super::table::aligned;
use super::units::{self, three_digits};

/// The measurements, each with the rate of what limits it; beside products those of cuBLAS, where there is one.
pub fn measured(report: &Report) -> String {
    let mut headings = vec!["kernel", "shape", "ms", "rate", "limit", "share"];
    if report.cublas.is_some() {
        headings.extend(["cuBLAS", "of cuBLAS"]);
    }
    let mut table = Table::new(headings);
    for row in &report.kernels {
        let mut cells = vec![
            row.name.clone(),
            row.shape.clone(),
            three_digits(row.milliseconds),
            rate(row),
            limit(row.limit).to_owned(),
            share(row),
        ];
        if let Some(cublas) = row.cublas {
            cells.extend([
                units::flops_per_second(cublas.flops_per_second),
                units::percent(cublas.engine_share),
            ]);
        }
        table.row(cells);
    }
    let notes = beyond_ceilings(report).into_iter().chain(compared(report)).chain(report.notes.clone());
    let notes: String = notes.map(|note| format!("\n{note}")).collect();
    let other = report.other_matrix.as_ref().map_or_else(String::new, |other| {
        format!(", in {} {}", other.precision, units::flops_per_second(other.flops_per_second))
    });
    format!(
        "{}\n\n{}\nceilings: copy {}, read {}, update {}\nmatrix product in {} {}{other}{notes}\n",
        heading(report),
        aligned(&table),
        bytes_per_second(report.copy_bytes_per_second),
        bytes_per_second(report.read_bytes_per_second),
        bytes_per_second(report.update_bytes_per_second),
        report.precision,
        units::flops_per_second(report.matrix_flops_per_second),
    )
}

/// Shares up to here may be above 1 by the spread of measurements; beyond, the ceiling is none for what was measured.
const MOST_SHARE: f64 = 1.05;

/// How much of what limits it an operation reaches; nothing where that limit does not hold for it.
fn share(row: &Row) -> String {
    if row.share > MOST_SHARE { "-".to_owned() } else { units::percent(row.share) }
}

/// Why some operations have no share.
fn beyond_ceilings(report: &Report) -> Option<String> {
    report.kernels.iter().any(|row| row.share > MOST_SHARE).then(|| {
        "share -: faster than the ceilings, which are of a copy and a read of large sizes:\n\
         small inputs stay in caches (use more --tokens or --parameters),\n\
         and on some machines more streams at once reach more"
            .to_owned()
    })
}

/// What GPUs' products are compared with, or why with nothing.
fn compared(report: &Report) -> Option<String> {
    match (&report.cublas, &report.no_cublas) {
        (Some(version), _) => {
            Some(format!("compared with cuBLAS {version}, a column that is not yet tried on hardware"))
        }
        (None, Some(reason)) if !report.device.starts_with("cpu") => {
            Some(format!("not compared with cuBLAS: {reason}"))
        }
        _ => None,
    }
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
        aligned(&table),
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
        cells.extend(row.map(|row| three_digits(row.milliseconds)));
        table.row(cells);
    }
    table
}

/// The time, or that there is none.
fn prediction(prediction: &Prediction) -> String {
    prediction.predicted_milliseconds.map_or_else(|| "does not fit".to_owned(), three_digits)
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

#[cfg(test)]
mod tests {
    use cpift_benches::kernels::{ByCublas, MatrixRate};

    use super::*;

    fn row(name: &str, cublas: Option<ByCublas>) -> Row {
        Row {
            name: name.to_owned(),
            shape: "8192×3584×18944".to_owned(),
            bytes: 1,
            flops: 1,
            runs: 3,
            milliseconds: 1.5,
            least_milliseconds: 1.4,
            bytes_per_second: 1e12,
            flops_per_second: 640e12,
            limit: Limit::Compute,
            share: 0.64,
            cublas,
        }
    }

    fn report(cublas: Option<&str>, no_cublas: Option<&str>, rows: Vec<Row>) -> Report {
        Report {
            device: "cuda:0 (a GPU)".to_owned(),
            precision: "bf16".to_owned(),
            tokens: 8192,
            length: 2048,
            copy_bytes_per_second: 4e12,
            read_bytes_per_second: 4e12,
            update_bytes_per_second: 4e12,
            matrix_flops_per_second: 1e15,
            other_matrix: None,
            cublas: cublas.map(str::to_owned),
            no_cublas: no_cublas.map(str::to_owned),
            stopped: false,
            notes: Vec::new(),
            kernels: rows,
        }
    }

    #[test]
    fn products_stand_beside_those_of_cublas() {
        let cublas = ByCublas { milliseconds: 1.2, flops_per_second: 800e12, engine_share: 0.8 };
        let rows = vec![row("linear d_weight gate 7B", Some(cublas)), row("attention forward 7B", None)];
        let text = measured(&report(Some("12.8.4"), None, rows));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[2].ends_with("cuBLAS  of cuBLAS"), "{text}");
        assert!(lines[4].ends_with("64.0 %  800 TFLOP/s     80.0 %"), "{text}");
        assert!(lines[5].trim_end().ends_with("64.0 %"), "{text}");
        assert!(text.contains("\ncompared with cuBLAS 12.8.4"), "{text}");
        assert!(lines.iter().all(|line| line.chars().count() <= 100), "{text}");
    }

    #[test]
    fn a_share_of_more_than_all_is_none_and_says_why() {
        let with_share = |share| Row { share, ..row("adamw", None) };
        let text = measured(&report(None, None, vec![with_share(1.04), with_share(2.3)]));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[4].trim_end().ends_with("104.0 %") && lines[5].trim_end().ends_with(" -"), "{text}");
        assert!(text.contains("\nshare -: faster than the ceilings") && !text.contains("230"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert!(!measured(&report(None, None, vec![with_share(1.04)])).contains("share -"));
    }

    #[test]
    fn the_ceilings_of_products_are_named_by_their_precision() {
        let mut report = report(None, None, vec![row("adamw", None)]);
        report.matrix_flops_per_second = 8e14;
        assert!(
            measured(&report).contains("\nmatrix product in bf16 800 TFLOP/s\n"),
            "{}",
            measured(&report)
        );
        report.other_matrix = Some(MatrixRate { precision: "f32".to_owned(), flops_per_second: 2e11 });
        let line = "\nmatrix product in bf16 800 TFLOP/s, in f32 200 GFLOP/s\n";
        assert!(measured(&report).contains(line), "{}", measured(&report));
    }

    #[test]
    fn without_cublas_a_gpus_table_says_why() {
        let text = measured(&report(None, Some("its library was not found"), vec![row("adamw", None)]));
        assert!(text.contains("\nnot compared with cuBLAS: its library was not found\n"), "{text}");
        assert!(!text.contains("of cuBLAS"), "{text}");
        let on_cpu =
            Report { device: "cpu (2 threads)".to_owned(), ..report(None, Some("no GPU"), Vec::new()) };
        assert!(!measured(&on_cpu).contains("cuBLAS"));
    }
}
