//! `merge` as a person runs it.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cpift_tests::folders::{self, read_safetensors, write_safetensors};
use cpift_tests::model_folders::{Stored, read, values, write};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{engine, refused, stderr, stdout, text};

/// A base and two models near it.
struct Models(TempDir);

impl Models {
    fn new(elements: usize) -> Self {
        let models = Self(TempDir::new().unwrap());
        for (name, value) in [("base", 1.0), ("a", 2.0), ("b", 5.0)] {
            write(
                &models.0.path().join(name),
                "any",
                &[Stored::floats("w", &[elements], &vec![value; elements])],
            );
        }
        models
    }

    fn path(&self, name: &str) -> String {
        text(&self.0.path().join(name)).to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = engine(&["merge", "--out", "out"]);
        command.args(arguments).current_dir(self.0.path());
        command
    }
}

#[test]
fn models_become_one() {
    let models = Models::new(1000);
    let output = models
        .command(&[
            "--method",
            "arithmetic",
            "--base",
            "base",
            "a",
            "b:0.5",
            "--scale",
            "2",
            "--dtype",
            "bf16",
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let (said, told) = (stdout(&output), stderr(&output));
    assert!(said.contains("merged into out") && said.contains("of the disk's rate"), "{said}");
    assert!(told.contains("merging by arithmetic: 1 000 parameters into 1 file"), "{told}");
    let merged = read(&models.0.path().join("out"));
    assert_eq!(values(&merged["w"]), [7.0; 1000]);

    fs::remove_dir_all(models.path("out")).unwrap();
    let output = models.command(&["--method", "slerp", "a", "b", "--json"]).output().unwrap();
    let report: Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(
        (&report["tensors"], &report["interpolations"], &report["linear"]),
        (&1.into(), &1.into(), &1.into())
    );
    assert_eq!(values(&read(&models.0.path().join("out"))["w"]), [3.5; 1000]);
}

#[test]
fn what_cannot_be_merged_is_one_line() {
    let models = Models::new(100);
    let [base, a, out] = ["base", "a", "out"].map(|name| models.path(name));
    let refuse = |arguments: &[&str]| refused(&[&["merge", "--out", &out], arguments].concat());
    let message = refuse(&["--method", "ties", &a]);
    assert_eq!(message, "`--base`: ties merges updates, differences from a base: name it");
    let message = refuse(&["--method", "average", &a, &models.path("nothing")]);
    assert!(message.contains("nothing/config.json: cannot read: there is no such folder"), "{message}");
    fs::create_dir(&out).unwrap();
    fs::write(models.path("out/something"), "").unwrap();
    let message = refuse(&["--method", "average", &a, &base]);
    assert!(message.contains("the folder is not empty"), "{message}");
    assert_eq!(fs::read_dir(models.0.path()).unwrap().count(), 4);
}

/// A configuration says what options say otherwise; what it does not say they still do.
#[test]
fn a_configuration_stands_in_the_place_of_models() {
    let models = Models::new(100);
    let text = "merge_method: task_arithmetic\nbase_model: base\nmodels:\n- {model: a}\n- {model: b, parameters: {weight: 2}}\n\
                parameters: {weight: 1, t: 0.5}\ndtype: float16\n";
    fs::write(models.path("merge.yml"), text).unwrap();
    let output = models.command(&["merge.yml", "--dtype", "bf16", "--shard-size", "1GB"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("merge.yml:6: `t` is nothing that task_arithmetic uses"),
        "{}",
        stderr(&output)
    );
    let merged = read(&models.0.path().join("out"));
    assert_eq!(values(&merged["w"]), [10.0; 100]);

    fs::remove_dir_all(models.path("out")).unwrap();
    fs::write(models.path("wrong.yaml"), text.replace("models:", "model:")).unwrap();
    fs::write(models.path("tokenizer.yml"), format!("{text}tokenizer_source: ./none\n")).unwrap();
    for (arguments, says) in [
        (&["merge.yml", "--method", "ties"][..], "`--method`: is what merge.yml says: leave it out"),
        (&["merge.yml", "--scale", "2"], "`--scale`: is what merge.yml says"),
        (&["merge.yml", "a"], "`MODEL`: is what merge.yml says"),
        (&["wrong.yaml"], "wrong.yaml:1: has neither `models` nor `slices`"),
        (&["tokenizer.yml"], "tokenizer.yml:8: `tokenizer_source`: ./none"),
        (&["a", "b"], "`--method`: is missing"),
        (&["nothing.yml"], "nothing.yml: cannot read"),
        (&["nothing.YML"], "nothing.YML: cannot read"),
    ] {
        let output = models.command(arguments).output().unwrap();
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(says) && message.lines().count() == 1, "{message}");
        assert!(!models.0.path().join("out").exists());
    }
}

/// A model that no disk has room for: said before the first byte.
#[cfg(unix)]
#[test]
fn too_little_space_is_said_first() {
    let models = Models::new(1);
    let elements = 3_u64 << 40;
    let header =
        format!(r#"{{"w":{{"dtype":"F32","shape":[{elements}],"data_offsets":[0,{}]}}}}"#, 4 * elements);
    for name in ["a", "b"] {
        let path = models.path(&format!("{name}/model.safetensors"));
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        fs::write(&path, &bytes).unwrap();
        // Of a file with a hole only what is written takes space.
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(bytes.len() as u64 + 4 * elements).unwrap();
    }
    let [a, b, out] = ["a", "b", "out"].map(|name| models.path(name));
    let message = refused(&["merge", "--out", &out, "--method", "average", &a, &b]);
    assert!(message.contains("12.0 TiB are needed"), "{message}");
    assert_eq!(fs::read_dir(models.0.path()).unwrap().count(), 3);
}

/// Ctrl-C leaves what is whole, and the command that it prints goes on.
#[cfg(unix)]
#[test]
fn a_stopped_merge_is_continued() {
    let models = Models::new(1);
    let tensors = |value: f32| -> Vec<Stored> {
        (0..400).map(|number| Stored::floats(&format!("t{number}"), &[3000], &[value; 3000])).collect()
    };
    for (name, value) in [("a", 1.0), ("b", 3.0)] {
        write(&models.0.path().join(name), "any", &tensors(value));
    }
    // Every tensor in a file of its own, each flushed to the disk.
    let arguments = ["--method", "average", "a", "b", "--shard-size", "12KB"];
    let mut child = models.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let first = models.0.path().join(".out.unfinished/model-00001-of-00400.safetensors");
    let began = Instant::now();
    while !first.exists() && began.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let status = child.wait().unwrap();
    // A fast disk may have been faster.
    if status.code() == Some(130) {
        assert!(!models.0.path().join("out").exists() && first.exists());
    } else {
        assert_eq!(status.code(), Some(0));
        fs::remove_dir_all(models.path("out")).unwrap();
    }
    let output = models.command(&[&arguments[..], &["--resume"]].concat()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let merged = read(&models.0.path().join("out"));
    assert!(merged.len() == 400 && merged.values().all(|tensor| values(tensor) == [2.0; 3000]));
}

/// Every value is shown as it is measured, then all of them in a table and on a page.
#[test]
fn a_number_is_chosen_by_rows() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["base", "tune"] {
        folders::copy(&folders::seesaw().join("base-small"), &path(name));
    }
    let file = path("base/model.safetensors");
    let mut tensors = read_safetensors(&file);
    tensors.values_mut().for_each(|tensor| tensor.bytes.rotate_left(4));
    write_safetensors(&file, &tensors);
    for (name, task) in [("sort.jsonl", "logic"), ("code.jsonl", "code")] {
        let rows = fs::read_to_string(folders::seesaw().join(format!("{task}.eval.jsonl"))).unwrap();
        fs::write(path(name), rows.lines().take(3).collect::<Vec<_>>().join("\n")).unwrap();
    }
    let models = ["merge", "--method", "arithmetic", "--base", "base", "tune", "--out", "out"];
    let command = |arguments: &[&str]| {
        let mut command = engine(&[&models, arguments].concat());
        command.current_dir(folder.path());
        command.output().unwrap()
    };
    let sweep = ["--sweep", "scale=0.5,1", "--data", "sort.jsonl", "code.jsonl"];
    for (arguments, says) in [
        (&["--scale", "0.5", "--sweep", "scale=0.5", "--data", "sort.jsonl"][..], "leave out --scale"),
        (&["--sweep", "scale=0.5", "--data", "sort.jsonl", "sort.jsonl"], "sort.jsonl: is given twice"),
        (&["--sweep", "scale=0.5", "--data", "tune"], "tune: "),
        (&["--generate"], "`--generate`: is for --sweep"),
        (&["--device", "cpu"], "`--device`: is for --sweep"),
        (&["--sweep", "density=0.5", "--data", "sort.jsonl"], "`--sweep`: tries density 0.5, which "),
        (&["--sweep", "scale=1", "--data", "nothing.jsonl"], "nothing.jsonl: cannot read"),
        (&["--sweep", "scale=1", "--data", "sort.jsonl", "--set", "chta=false"], "chta"),
    ] {
        let output = command(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(says), "{arguments:?}: {}", stderr(&output));
        assert_eq!(stderr(&output).lines().count(), 1, "{arguments:?}: {}", stderr(&output));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4, "{arguments:?}");
    }
    let output = command(&[&sweep[..], &["--generate", "--max-new-tokens", "4"]].concat());
    let (said, told) = (stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("merging by arithmetic with 2 values of scale"), "{told}");
    assert!(told.contains("scale 0.5: ") && told.contains(" of the answers right, loss "), "{told}");
    let best = said.lines().find(|line| line.ends_with("best")).unwrap().split(' ').next().unwrap();
    assert!(said.contains(&format!("merged into out with scale {best}\n")), "{said}");
    assert!(said.contains("report out/report.html"), "{said}");
    assert!(said.contains("sort.jsonl") && said.contains("code.jsonl"), "{said}");
    let page = fs::read_to_string(path("out/report.html")).unwrap();
    assert!(page.contains("loss by scale") && page.contains("score by scale"));

    let output = engine(&["report", text(&path("out"))]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(path("out/report.html")).unwrap(), page);
    fs::remove_dir_all(path("out")).unwrap();
    let output = command(&[&sweep[..], &["--json"]].concat());
    let report: Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!((&report["key"], &report["by_score"]), (&"scale".into(), &false.into()));
    assert_eq!(report["points"][1]["files"][0]["rows"], 3);
}
