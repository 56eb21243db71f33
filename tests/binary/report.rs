//! `report`: of finished runs and of those that are not, with names that would break a page, of damaged folders.

use std::fs;
use std::path::Path;

use cpift_model::progress::JobReport;
use serde_json::json;

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
    assert_eq!(sections(&page), ["results", "training", "cores", "overlap", "fusion", "frozen", "run"]);

    let result: JobReport = serde_json::from_slice(&files.job.bytes("run/report.json")).unwrap();
    let cells = cells(&page);
    let data = String::from_utf8(files.job.bytes("run/report/scores.csv")).unwrap();
    for task in &result.tasks {
        let row = cells.iter().position(|cell| *cell == task.task).unwrap();
        for (index, score) in task.scores.iter().enumerate() {
            let score = score.unwrap();
            assert_eq!(cells[row + 1 + 2 * index], format!("{:.4}", score.loss));
            assert_eq!(cells[row + 2 + 2 * index], format!("{:.1} %", 100.0 * score.exact_match.unwrap()));
            let line = format!("{},{},{},", task.task, result.columns[index], score.loss);
            assert!(data.contains(&line), "{line} in {data}");
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
        ("probe", vec!["results", "training", "run"]),
        ("group", vec!["results", "training", "cores", "overlap", "run"]),
        ("fuse", vec!["results", "training", "cores", "overlap", "fusion", "run"]),
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
