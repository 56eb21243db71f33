//! Every form of path that a person may type, for every command that takes one.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::support::{JobFiles, engine, stderr};

/// A working directory and the two paths a person types there.
struct Form {
    name: &'static str,
    /// Relative to the job's folder.
    working_directory: &'static str,
    recipe: &'static str,
    run: &'static str,
}

/// `ROOT` stands for the job's folder.
const FORMS: [Form; 9] = [
    Form { name: "relative", working_directory: "", recipe: "recipe.toml", run: "relative" },
    Form { name: "dot", working_directory: "", recipe: "./recipe.toml", run: "./dot" },
    Form { name: "nested", working_directory: "", recipe: "recipe.toml", run: "some/where/else" },
    Form { name: "parent", working_directory: "work", recipe: "../recipe.toml", run: "../parent" },
    Form { name: "through", working_directory: "", recipe: "work/../recipe.toml", run: "work/../through" },
    Form { name: "slash", working_directory: "", recipe: "recipe.toml", run: "slash/" },
    Form { name: "symlink", working_directory: "work", recipe: "link/recipe.toml", run: "link/symlink" },
    Form {
        name: "letters",
        working_directory: "zwei Wörter 数",
        recipe: "../recipe.toml",
        run: "ein Läuf 走",
    },
    Form { name: "absolute", working_directory: "work", recipe: "ROOT/recipe.toml", run: "ROOT/absolute" },
];

/// A small job with the folders that the forms run in.
fn job() -> JobFiles {
    let files = JobFiles::new(&[]);
    for folder in ["work", "zwei Wörter 数"] {
        fs::create_dir(files.job.path(folder)).unwrap();
    }
    #[cfg(unix)]
    std::os::unix::fs::symlink("..", files.job.path("work/link")).unwrap();
    files
}

fn forms() -> impl Iterator<Item = Form> {
    FORMS.into_iter().filter(|form| cfg!(unix) || form.name != "symlink")
}

impl Form {
    fn typed(&self, files: &JobFiles, path: &str) -> String {
        path.replace("ROOT", files.path("").trim_end_matches('/'))
    }

    /// Runs the binary in the form's working directory and expects success.
    #[track_caller]
    fn run(&self, files: &JobFiles, arguments: &[&str]) -> Output {
        let folder = files.job.path(self.working_directory);
        let output = engine(arguments).args(["--threads", "1"]).current_dir(folder).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}: {arguments:?}: {}", self.name, stderr(&output));
        output
    }

    /// A file of the run, as it lies on the disk.
    fn file(&self, files: &JobFiles, name: &str) -> Vec<u8> {
        let run = self.typed(files, self.run);
        fs::read(files.job.path(self.working_directory).join(run).join(name)).unwrap()
    }
}

#[test]
fn a_run_in_any_folder_goes_on_with_resume() {
    let files = job();
    files.trained("whole", &[]);
    let whole = files.job.bytes("whole/final/model.safetensors");
    for form in forms() {
        let (recipe, out) = (form.typed(&files, form.recipe), form.typed(&files, form.run));
        form.run(&files, &["plan", &recipe]);
        let train = ["train", &recipe, "--out", &out];
        for stage in ["probe", "core", "fuse"] {
            let output = form.run(&files, &[&train[..], &["--until", stage, "--resume"]].concat());
            let said = stderr(&output);
            assert!(stage == "probe" || said.contains("is complete already"), "{}: {said}", form.name);
        }
        form.run(&files, &[&train[..], &["--resume"]].concat());
        assert!(form.file(&files, "final/model.safetensors") == whole, "{}", form.name);
        // A run that is finished is taken as it is.
        form.run(&files, &[&train[..], &["--resume"]].concat());
        assert!(form.file(&files, "final/model.safetensors") == whole, "{}", form.name);
    }
}

#[test]
fn the_default_run_folder_goes_on_with_resume() {
    let files = job();
    for form in forms().filter(|form| form.name != "slash") {
        let recipe = form.typed(&files, form.recipe);
        let runs = files.job.path(form.working_directory).join("runs");
        form.run(&files, &["train", &recipe, "--until", "probe"]);
        let output = form.run(&files, &["train", &recipe, "--resume"]);
        assert!(stderr(&output).contains("is complete already"), "{}: {}", form.name, stderr(&output));
        let run = fs::read_dir(&runs).unwrap().next().unwrap().unwrap().path();
        assert!(run.join("final/config.json").is_file(), "{}", form.name);
        fs::remove_dir_all(runs).unwrap();
    }
}

#[test]
fn what_reads_a_run_takes_any_form() {
    let files = job();
    for form in forms() {
        let (recipe, run) = (form.typed(&files, form.recipe), form.typed(&files, form.run));
        form.run(&files, &["train", &recipe, "--out", &run, "--set", "method=joint"]);
        form.run(&files, &["report", &run]);
        assert!(form.file(&files, "report.html").starts_with(b"<!DOCTYPE html>"), "{}", form.name);
        let pages = ["page.html".to_owned(), format!("{run}/../new/{}.html", form.name)];
        for page in pages {
            form.run(&files, &["report", &run, "--out", &page, "--figures", &format!("{page}.figures")]);
            assert!(files.job.path(form.working_directory).join(&page).is_file(), "{}", form.name);
        }
        let model = Path::new(&run).join("final");
        let model = format!("{}{}", model.display(), if run.ends_with('/') { "/" } else { "" });
        let data = recipe.replace("recipe.toml", "code.eval.jsonl");
        form.run(&files, &["eval", &model, "--data", &data]);
        form.run(&files, &["generate", &model, "--prompt", "1+1=", "--max-new-tokens", "2"]);
    }
}

#[test]
fn a_comparison_in_any_folder_goes_on_with_resume() {
    let files = job();
    let few = ["--methods", "cpift,joint", "--seeds", "1", "--device", "cpu"];
    for form in forms() {
        let recipe = form.typed(&files, form.recipe);
        let out = form.typed(&files, form.run);
        let compare = [&["compare", &recipe, "--out", &out], &few[..]].concat();
        form.run(&files, &compare);
        // A row more: what both have in common is not run again.
        form.run(&files, &[&compare[..], &["--ablations", "freezing", "--resume"]].concat());
        form.run(&files, &["report", &out]);
    }
}

/// A run folder that was moved, or that is named in another way than before, goes on.
#[test]
fn a_moved_run_folder_goes_on() {
    let files = job();
    files.trained("whole", &[]);
    let here = Form { name: "moved", working_directory: "", recipe: "recipe.toml", run: "moved" };
    let elsewhere = Form { working_directory: "work", run: "../moved", ..here };
    here.run(&files, &["train", "recipe.toml", "--out", "first", "--until", "fuse"]);
    fs::rename(files.job.path("first"), files.job.path("moved")).unwrap();
    let output = elsewhere.run(&files, &["train", "../recipe.toml", "--out", "../moved", "--resume"]);
    assert!(stderr(&output).contains("is complete already"), "{}", stderr(&output));
    let final_model = "final/model.safetensors";
    assert!(here.file(&files, final_model) == files.job.bytes(&format!("whole/{final_model}")));
}
