//! `bench kernels`: what is measured is one document, and a filter that finds nothing says what there is.

use cpift_tests::stand_in::StandIn;

use crate::support::{engine, refused, run, stderr, stdout};

const SMALL: [&str; 10] =
    ["bench", "kernels", "--device", "cpu", "--tokens", "4", "--parameters", "5000", "--seconds", "0"];

#[test]
fn every_line_has_its_work_its_time_and_its_limit() {
    let output = run(&[&SMALL[..], &["--filter", "q 0.5B", "--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let kernels = report["kernels"].as_array().unwrap();
    let names: Vec<&str> = kernels.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["linear forward q 0.5B", "linear d_input q 0.5B", "linear d_weight q 0.5B"]);
    assert_eq!((report["tokens"].as_u64(), report["length"].as_u64()), (Some(4), Some(4)));
    // Compared on GPUs alone: null, and why.
    assert!(report["cublas"].is_null() && kernels.iter().all(|row| row["cublas"].is_null()));
    assert_eq!(report["no_cublas"], "cuBLAS is for CUDA devices, and this is cpu");
    for row in kernels {
        assert_eq!(row["flops"].as_u64(), Some(2 * 4 * 896 * 896));
        assert_eq!(row["runs"], 3);
        let number = |key: &str| row[key].as_f64().unwrap();
        assert!(number("milliseconds") >= number("least_milliseconds") && number("least_milliseconds") > 0.0);
        let bytes_per_second = number("bytes") / number("milliseconds") * 1e3;
        assert!((number("bytes_per_second") / bytes_per_second - 1.0).abs() < 1e-9);
        // Which limit it is depends on the ceilings, which are this machine's at this moment.
        let ceiling = |key: &str| report[key].as_f64().unwrap();
        let ceilings = ["copy_bytes_per_second", "read_bytes_per_second", "update_bytes_per_second"];
        let memory = ceilings.map(ceiling).into_iter().fold(0.0, f64::max);
        let of_memory = bytes_per_second / memory;
        let of_compute = number("flops_per_second") / ceiling("matrix_flops_per_second");
        let limit = if of_memory >= of_compute { "memory" } else { "compute" };
        assert_eq!(row["limit"], limit);
        assert!((number("share") / of_memory.max(of_compute) - 1.0).abs() < 1e-9);
    }
}

#[test]
fn the_table_fits_a_hundred_columns() {
    let output = run(&[&SMALL[..], &["--filter", "adamw"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let table = stdout(&output);
    assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
    assert_eq!(table.lines().filter(|line| line.starts_with("adamw")).count(), 13, "{table}");
    assert!(stderr(&output).lines().last().unwrap().starts_with("13/13  adamw compact split frozen"));
}

/// On the stand-in for the driver, which cuBLAS, where a machine has it, must not be let loose on.
#[test]
fn a_missing_cublas_is_a_footnote_of_a_gpus_table() {
    if cpift_engine::cublas::find().is_ok() {
        return;
    }
    let stand_in = StandIn::new();
    let mut command = engine(&["bench", "kernels", "--device", "cuda", "--tokens", "1", "--seconds", "0"]);
    command.args(["--filter", "linear forward q 0.5B"]);
    stand_in.install(&mut command);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let (table, note) = stdout(&output).split_once("not compared with cuBLAS: ").unwrap();
    assert!(note.starts_with("its library was not found: ") && !table.contains("of cuBLAS"), "{table}{note}");
    assert_eq!(stand_in.violations(), [""; 0]);
}

#[test]
fn a_filter_that_finds_nothing_names_what_there_is() {
    let message = refused(&[&SMALL[..], &["--filter", "adamv"]].concat());
    assert!(message.starts_with("`--filter`: no kernel has `adamv` in its name; there are: "), "{message}");
    assert!(message.contains(", adamw, ") && message.ends_with(", mask"), "{message}");
    assert!(refused(&["bench", "kernels", "--device", "emulated"]).contains("--device"));
}

#[test]
fn predictions_are_labelled_and_beside_measurements_in_a_column_of_their_own() {
    let sizes =
        ["--predict", "h100", "--tokens", "64", "--parameters", "5000", "--filter", "forward gate 0.5B"];
    let output = run(&[&["bench", "kernels", "--json", "--precision", "f32"][..], &sizes].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let kernel = &document["predicted"][0]["kernels"][0];
    assert_eq!(kernel["flops"].as_u64(), Some(2 * 64 * 896 * 4864));
    assert!(kernel["milliseconds"].is_null() && kernel["predicted_milliseconds"].as_f64().unwrap() > 0.0);
    // The product is one launch, which has all of its operations and its registers from the assembler.
    let launch = &kernel["launches"][0];
    assert!(
        launch["registers"].as_u64().unwrap() > 0 && launch["occupancy"].as_f64().unwrap() > 0.0,
        "{launch}"
    );

    let measured = run(&[&SMALL[..], &["--filter", "gate 0.5B", "--json"]].concat());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &measured.stdout).unwrap();
    let path = file.path().to_str().unwrap();
    let tokens = [
        "bench",
        "kernels",
        "--predict",
        "a100",
        "--tokens",
        "4",
        "--filter",
        "gate 0.5B",
        "--compare",
        path,
    ];
    assert!(refused(&tokens).contains("was measured in f32; add --precision f32"));
    let output = run(&[&tokens[..], &["--precision", "f32"]].concat());
    let table = stdout(&output);
    assert!(table.starts_with("predicted, not measured"), "{table}");
    assert!(table.lines().any(|line| line.contains("predicted") && line.ends_with("measured")), "{table}");
    assert!(table.contains("measured on cpu"), "{table}");
    assert!(refused(&["bench", "kernels", "--predict", "--compare", path]).contains("needs the one GPU"));
}
