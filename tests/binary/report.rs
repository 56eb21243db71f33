//! `report`: of finished runs and of those that are not, with names that would break a page, of damaged folders.

use std::fs;
use std::path::Path;

use cpift_model::progress::JobReport;
use cpift_tests::model_folders::Stored;
use serde_json::{Value, json};

use crate::support::{JobFiles, refused, run, stderr, stdout, text};

/// Reports a run folder with success; returns the page.
fn report(folder: &str) -> String {
    let output = run(&["report", folder]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("report.html"), "{}", stdout(&output));
    let page = fs::read_to_string(Path::new(folder).join("report.html")).unwrap();
    check_page(&page);
    page
}

/// A page is well-formed, needs nothing from elsewhere and has only finite numbers in its charts.
fn check_page(page: &str) {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let parsed = roxmltree::Document::parse_with_options(page, options).unwrap();
    for foreign in ["http:", "https:", "src=", "<script", "@import", "url("] {
        assert!(!page.contains(foreign), "{foreign} in the page");
    }
    check_charts(&parsed);
}

fn check_charts(parsed: &roxmltree::Document<'_>) {
    let numeric = ["x", "y", "width", "height", "viewBox", "d", "fill-opacity", "transform"];
    let charts =
        parsed.descendants().filter(|node| node.has_tag_name("svg") || node.tag_name().name() == "svg");
    for node in charts.flat_map(|chart| chart.descendants()) {
        for attribute in node.attributes().filter(|attribute| numeric.contains(&attribute.name())) {
            let numbers = attribute.value().split(|c: char| !c.is_ascii_digit() && !"-.".contains(c));
            for number in numbers.filter(|number| !number.is_empty()) {
                let value: f64 = number.parse().unwrap_or_else(|_| panic!("{:?}", attribute.value()));
                assert!(value.abs() < 1e5, "{:?}", attribute.value());
            }
            let words = attribute.value().to_lowercase();
            assert!(!words.contains("nan") && !words.contains("inf"), "{words}");
        }
    }
}

/// The text of a page's tables, cell by cell.
fn cells(page: &str) -> Vec<String> {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let parsed = roxmltree::Document::parse_with_options(page, options).unwrap();
    let cells = parsed.descendants().filter(|node| node.has_tag_name("td"));
    cells.map(|cell| cell.text().unwrap_or_default().to_owned()).collect()
}

fn sections(page: &str) -> Vec<String> {
    let of_heading = page.split("<h2 id=\"").skip(1);
    of_heading.filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect()
}

#[test]
fn a_finished_run_is_reported_whole() {
    let files = JobFiles::new(&[("integrate.frozen", json!("others"))]);
    let output = files.trained("run", &[]);
    assert!(stdout(&output).contains("cpift-engine report "), "{}", stdout(&output));
    let page = report(&files.path("run"));
    assert_eq!(
        sections(&page),
        ["results", "answers", "training", "cores", "overlap", "fusion", "frozen", "run"]
    );

    let result: JobReport = serde_json::from_slice(&files.job.bytes("run/report.json")).unwrap();
    let cells = cells(&page);
    let data = String::from_utf8(files.job.bytes("run/report/scores.csv")).unwrap();
    for task in &result.tasks {
        let row = cells.iter().position(|cell| *cell == task.task).unwrap();
        for (index, score) in task.scores.iter().enumerate() {
            let score = score.unwrap();
            assert_eq!(cells[row + 1 + 3 * index], format!("{:.4}", score.loss));
            assert_eq!(cells[row + 2 + 3 * index], format!("{:.3}", score.loss.exp()));
            assert_eq!(cells[row + 3 + 3 * index], format!("{:.1} %", 100.0 * score.exact_match.unwrap()));
            let line = format!("{},{},{},", task.task, result.columns[index], score.loss);
            assert!(data.contains(&line), "{line} in {data}");
            let perplexity = format!(",{}", score.loss.exp());
            assert!(data.lines().any(|row| row.starts_with(&line) && row.ends_with(&perplexity)), "{data}");
        }
    }
    for expected in
        ["train.learning_rate", "cpift-engine 0.", "linux", "probe code", "folding in", "% of all parameters"]
    {
        assert!(page.contains(expected), "no `{expected}`");
    }
    assert!(!page.contains("not complete"));

    let steps = String::from_utf8(files.job.bytes("run/report/steps.csv")).unwrap();
    let metrics = String::from_utf8(files.job.bytes("run/metrics.jsonl")).unwrap();
    assert!(steps.lines().count() > metrics.lines().count());
    let mut charts = 0;
    for file in fs::read_dir(files.job.path("run/report")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "svg") {
            let chart = fs::read_to_string(&path).unwrap();
            check_charts(&roxmltree::Document::parse(&chart).unwrap());
            assert!(!chart.contains("var("), "{}", path.display());
            charts += 1;
        }
    }
    assert!(charts >= 12, "{charts}");
    // A second report replaces the first.
    assert_eq!(report(&files.path("run")), page);
}

/// An answer that was as long as it may be is told from one that ended.
#[test]
fn answers_that_were_cut_are_marked() {
    let files = JobFiles::new(&[("method", json!("joint"))]);
    files.trained("run", &["--set", "task.code.max_new_tokens=1"]);
    let page = report(&files.path("run"));
    assert!(cells(&page).iter().any(|cell| cell.ends_with(" [cut]")) && page.contains("max_new_tokens"));
}

#[test]
fn a_report_goes_where_it_is_told() {
    let files = JobFiles::new(&[("method", json!("joint"))]);
    files.trained("run", &[]);
    let (page, figures) = (files.path("elsewhere/page.html"), files.path("figures"));
    let output = run(&["report", &files.path("run"), "--out", &page, "--figures", &figures]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    check_page(&fs::read_to_string(&page).unwrap());
    assert!(Path::new(&figures).join("learning-rate.svg").is_file());
    assert!(!files.job.path("run/report.html").exists() && !files.job.path("run/report").exists());
}

#[test]
fn other_methods_and_unfinished_runs_show_what_there_is() {
    let files = JobFiles::new(&[]);
    for method in ["joint", "sequential", "staged"] {
        files.trained(method, &["--set", &format!("method={method}")]);
        let page = report(&files.path(method));
        let sections = sections(&page);
        assert_eq!(sections.contains(&"cores".to_owned()), method == "staged", "{method}: {sections:?}");
        assert!(!sections.contains(&"fusion".to_owned()) && !page.contains("not complete"));
        assert!(page.contains(&format!("{method}: all tasks")), "{method}");
    }
    for (stage, expected) in [
        ("probe", vec!["results", "answers", "training", "run"]),
        ("group", vec!["results", "answers", "training", "cores", "overlap", "run"]),
        ("fuse", vec!["results", "answers", "training", "cores", "overlap", "fusion", "run"]),
    ] {
        files.trained(stage, &["--until", stage]);
        let page = report(&files.path(stage));
        assert_eq!(sections(&page), expected);
        assert!(
            page.contains("This run is not complete: 12 of 18 planned optimizer steps are made"),
            "{stage}"
        );
    }
    // Killed while writing its metrics, before anything else.
    for file in ["groups.json", "scores.json", "progress.json", "run.json"] {
        fs::remove_file(files.job.path("fuse").join(file)).unwrap();
    }
    for folder in ["core", "fused"] {
        fs::remove_dir_all(files.job.path("fuse").join(folder)).unwrap();
    }
    let metrics = files.job.path("fuse/metrics.jsonl");
    let whole = fs::read_to_string(&metrics).unwrap();
    let torn: String = whole
        .lines()
        .take(2)
        .map(|line| format!("{line}\n"))
        .chain(["{\"stage\":\"pro".to_owned()])
        .collect();
    fs::write(&metrics, torn).unwrap();
    let page = report(&files.path("fuse"));
    assert!(page.contains("not complete: 2 optimizer steps are made, and nothing has been measured"));
    fs::remove_file(&metrics).unwrap();
    assert_eq!(sections(&report(&files.path("fuse"))), ["results", "run"]);
}

#[test]
fn names_from_outside_cannot_break_the_page() {
    let files = JobFiles::new(&[]);
    files.trained("run", &[]);
    let name = "<b onclick=\"x\">&'\u{1}漢😀 a/../b</b>";
    for file in ["report.json", "groups.json", "core/report.json", "fused/report.json", "metrics.jsonl"] {
        let path = files.job.path("run").join(file);
        let quoted = serde_json::to_string(name).unwrap();
        fs::write(&path, fs::read_to_string(&path).unwrap().replace("\"code\"", &quoted)).unwrap();
    }
    let folder = files.job.path("a <i>&amp;\" run");
    fs::rename(files.job.path("run"), &folder).unwrap();
    let page = report(text(&folder));
    assert!(!page.contains("<b onclick") && !page.contains("<i>"));
    assert!(cells(&page).iter().any(|cell| *cell == name.replace('\u{1}', "\u{fffd}")));
    assert!(page.contains("<h1>a &lt;i&gt;&amp;amp;&quot; run</h1>"));
    for file in fs::read_dir(folder.join("report")).unwrap() {
        assert!(file.unwrap().file_type().unwrap().is_file(), "nothing is written into other folders");
    }
}

#[test]
fn folders_that_cannot_be_reported() {
    let files = JobFiles::new(&[]);
    assert!(
        refused(&["report", &files.path("none")])
            .ends_with("none: there is no such folder; give the folder that `train` wrote")
    );
    assert!(refused(&["report", &files.path("recipe.toml")]).contains("recipe.toml: is not a folder"));
    fs::create_dir(files.job.path("empty")).unwrap();
    assert!(
        refused(&["report", &files.path("empty")])
            .contains("empty: is not a run folder: it holds no recipe.toml")
    );
    files.trained("run", &[]);
    let run = files.path("run");
    assert!(refused(&["report", &run, "--out", &files.path("empty")]).contains("is a folder"));
    let cases = [
        ("metrics.jsonl", "{\"stage\": 3}\n", "metrics.jsonl:1: is not an optimizer step"),
        (
            "report.json",
            "{\"method\":\"cpift\",\"columns\":[\"base\"],\"tasks\":[{\"task\":\"code\",\"scores\":[]}],\
          \"frozen_verified\":0,\"seconds\":1,\"steps\":1,\"model\":null}",
            "`code` has not one score per column",
        ),
        ("report.json", "[", "report.json: not as this version writes it"),
        (
            "groups.json",
            "{\"tasks\":[\"a\",\"b\"],\"jaccard\":[[1.0]],\"chance\":0.1,\"sign_agreement\":[],\
          \"threshold\":0.1,\"groups\":[[7]]}",
            "groups.json: its matrices or groups do not fit its 2 tasks",
        ),
        ("core/report.json", "", "core/report.json: not as this version writes it"),
        ("recipe.toml", "[model\n", "recipe.toml:1: "),
    ];
    for (file, content, expected) in cases {
        let path = files.job.path("run").join(file);
        let before = fs::read(&path).unwrap();
        fs::write(&path, content).unwrap();
        let message = refused(&["report", &run]);
        assert!(message.contains(expected), "{message}");
        fs::write(&path, before).unwrap();
    }
    report(&run);
}

/// A comparison as `compare` writes it: two tasks, two seeds, one run missing a figure.
fn comparison() -> Value {
    let score = |exact: f64| json!({ "loss": 2.0 - exact, "exact_match": exact, "tokens": 40, "rows": 10 });
    let interval = |mean: f64| json!({ "mean": mean, "half_width": 0.03, "count": 2 });
    let run = |seed: u64, mean: Option<f64>| {
        json!({
            "seed": seed, "scores": [score(0.5), score(0.25)], "normalised": [mean, mean], "mean_normalised": mean,
            "worst_task": 1, "worst_normalised": mean, "seconds": 3.5, "peak_memory_bytes": 1 << 20,
            "folder": format!("runs/{seed}"),
        })
    };
    let method = |name: &str, kind: &str, means: [Option<f64>; 2]| {
        json!({
            "name": name, "title": format!("what <{name}> does"), "kind": kind,
            "family": if kind == "ablation" { "cores & more" } else { "" },
            "budgets": ["total", "given"], "specialist_steps": 120, "steps": 60, "settings": ["core.fraction=0.05"],
            "runs": [run(1, means[0]), run(2, means[1])],
            "summary": {
                "tasks": (0..2).map(|task| json!({
                    "loss": interval(1.5), "exact_match": interval(0.625 - 0.5 * f64::from(task)), "normalised": null,
                })).collect::<Vec<_>>(),
                "mean_exact_match": null,
                "mean_normalised": means[0].and(means[1]).map(|_| interval(0.75)),
                "worst_normalised": null, "worst_task": null, "seconds": interval(3.5), "peak_memory_bytes": null,
            },
        })
    };
    let reference = |seed: u64| {
        json!({
            "seed": seed, "base": [score(0.0), score(0.125)], "specialist": [score(1.0), score(1.0)], "seconds": 2.0,
            "peak_memory_bytes": null,
        })
    };
    let pair = json!({
        "seed": 1, "first": 0, "second": 1, "first_before": score(1.0), "first_after": score(0.5),
        "second_before": score(0.0), "second_after": score(1.0),
    });
    json!({
        "version": 1,
        "origin": {
            "program": "cpift-engine 0.1.0", "command": "cpift-engine compare recipe.toml", "recipe": "seed = 1\n",
            "inputs": [{ "file": "a.jsonl", "blake3": "0123456789abcdef0123" }], "device": "cpu", "threads": 2,
            "jobs": 1, "system": "linux x86_64", "processor": null, "parameters": 9000,
        },
        "tasks": ["sort", "<i>\"&"], "seeds": [1, 2],
        "steps": { "specialist": 60, "total": 180, "given": 60 },
        "references": [reference(1), reference(2)],
        "methods": [
            method("cpift", "method", [Some(0.75), Some(0.5)]),
            method("joint", "method", [Some(0.75), None]),
            method("no-freezing", "ablation", [Some(0.5), Some(0.25)]),
        ],
        "cores": [],
        "overlaps": {
            "chance": 0.005,
            "importance": [{ "seed": 1, "task": 0, "importance": "path", "jaccard": 0.5 }],
            "seeds": [{ "task": 1, "seeds": [1, 2], "jaccard": 0.25 }],
        },
        "forgetting": {
            "first_steps": 60, "second_steps": 60,
            "methods": [{
                "name": "sequential", "title": "plain", "pairs": [pair], "first_change": interval(-0.5),
                "second_change": interval(1.0), "change": [[null, -0.5], [-0.25, null]],
            }],
        },
    })
}

#[test]
fn a_comparison_is_reported_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("study");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("results.json"), comparison().to_string()).unwrap();
    let page = report(text(&path));
    assert_eq!(sections(&page), ["results", "ablations", "overlap", "forgetting", "run"]);
    assert!(!page.contains("<i>"));
    let cells = cells(&page);
    let row = |name: &str| {
        let start = cells.iter().position(|cell| cell == name).unwrap();
        cells[start + 1..start + 9].to_vec()
    };
    assert_eq!(row("cpift"), ["62.5 ± 3.0", "12.5 ± 3.0", "0.750 ± 0.030", "–", "–", "60", "3.5 s", "–"]);
    // A mean over fewer seeds than all is no figure, and never zero.
    assert_eq!(row("joint")[2], "–");
    assert_eq!(row("own specialists")[..3], ["100.0 ± 0.0", "100.0 ± 0.0", "1"]);
    // The difference is taken seed by seed: −0.25 both times.
    assert_eq!(row("no-freezing")[..4], ["62.5 ± 3.0", "12.5 ± 3.0", "0.750 ± 0.030", "−0.250 ± 0.000"]);
    let ablation =
        ["no-freezing", "cores & more", "60", "0.750 ± 0.030", "−0.250 ± 0.000", "specialists given"];
    assert!(cells.windows(ablation.len()).any(|window| window == ablation));
    assert_eq!(row("sequential")[..2], ["−50.0 ± 3.0", "100.0 ± 3.0"]);
    let data = fs::read_to_string(path.join("report/results.csv")).unwrap();
    assert_eq!(data.lines().count(), 1 + 3 * 2 * 2);
    assert!(
        data.contains("joint,method,,equal total steps; specialists given,60,2,sort,1.5,0.5,,3.5,1048576"),
        "{data}"
    );

    let mut broken = comparison();
    broken["methods"][1]["runs"][0]["scores"] = json!([]);
    let mut newer = comparison();
    newer["version"] = json!(7);
    let cases = [
        (broken.to_string(), "results.json: `joint` does not fit its tasks and seeds"),
        (newer.to_string(), "results.json: is of version 7, this program reads 1"),
        ("{}".to_owned(), "results.json: is not the results of a comparison: missing field"),
    ];
    for (content, expected) in cases {
        fs::write(path.join("results.json"), content).unwrap();
        let message = refused(&["report", text(&path)]);
        assert!(message.contains(expected), "{message}");
    }
}

/// The cores of models that nobody trained here: tables, page, masks, from another folder than theirs.
#[test]
fn cores_of_models_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let model = |name: &str, seed: u64| {
        let values = cpift_tests::numeric::random(seed, 6000);
        let (table, layer) = values.split_at(2000);
        let tensors = [
            Stored::floats("transformer.wte.weight", &[100, 20], table),
            Stored::floats("transformer.h.0.mlp.weight", &[40, 100], layer),
        ];
        cpift_tests::model_folders::write(&folder.path().join(name), "any", &tensors);
    };
    ["base", "a<b", "tune"].into_iter().zip(1..).for_each(|(name, seed)| model(name, seed));
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (base, tune, named, out) =
        (path("base"), path("tune"), format!("other={}", path("a<b")), path("cores"));
    let command = ["cores", "--base", &base, &tune, &named, "--out", &out];
    let output = run(&command);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = stdout(&output);
    for part in ["tune", "other", "Overlap of the cores", "report.html"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(stderr(&output).contains("cores of 2 models of 6 000 parameters"), "{}", stderr(&output));
    let page = fs::read_to_string(Path::new(&out).join("report.html")).unwrap();
    check_page(&page);
    assert_eq!(sections(&page), ["cores", "overlap", "models"]);
    assert!(cells(&page).contains(&"60".to_owned()), "1 % of 6,000 parameters");
    // Made again from what is in the folder.
    assert_eq!(report(&out), page);
    let again = path("again");
    let json = run(&["cores", "--base", &base, &tune, "--fraction", "0.5", "--out", &again, "--json"]);
    let json: Value = serde_json::from_str(stdout(&json)).unwrap();
    assert_eq!(json["cores"]["tasks"][0]["size"], 3000);

    let line = refused(&command);
    assert!(line.contains("not empty"), "{line}");
    let nowhere = path("nowhere");
    let line = refused(&["cores", "--base", &base, &nowhere, "--out", &path("third")]);
    assert!(line.contains("nowhere"), "{line}");
    let line = refused(&["cores", "--base", &base, &path("a<b"), "--out", &path("third")]);
    assert!(line.contains("NAME="), "{line}");
    assert!(!Path::new(&path("third")).exists());
}
