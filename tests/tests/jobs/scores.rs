//! How tasks are scored: in the closing table, in what a run keeps of the answers, and on files.

use std::fs;

use cpift_engine::Device;
use cpift_model::evaluation::{AnswerSettings, Evaluator, FileScore, FileSettings};
use cpift_model::job::RunFolder;
use cpift_model::progress::{Column, EvaluationPhase, EvaluationProgress, Event, Observer, Silent};
use cpift_model::score::ScoreKind;
use cpift_model::transformer::ComputeType;
use cpift_model::{Error, Recipe};
use cpift_tests::jobs::SmallJob;
use serde_json::{Value, json};

/// The recipe with the scores of its tasks: arithmetic, code, logic.
fn scored(job: &SmallJob, scores: [&str; 3]) -> Recipe {
    let mut recipe = job.recipe(&[("method", json!("joint"))]);
    for (task, score) in recipe.task.iter_mut().zip(scores) {
        task.score = score.parse().unwrap();
    }
    recipe
}

#[test]
fn every_task_is_scored_as_it_says() {
    let job = SmallJob::new();
    let recipe = scored(&job, ["number", "regex:\\(([0-9]+)", "choice"]);
    // Letters as answers, and options that only references show.
    letters(&job);
    let report = job.run(&recipe, "run", false, &mut Silent).unwrap();
    let kinds = [ScoreKind::Number, ScoreKind::Regex, ScoreKind::Choice];
    for (task, kind) in report.tasks.iter().zip(kinds) {
        for score in task.scores.iter().map(|score| score.unwrap()) {
            assert_eq!(score.score_kind, kind, "{}", task.task);
            assert!(score.score.unwrap() >= score.exact_match.unwrap(), "{}", task.task);
            assert_eq!(score.choice_by_loss.is_some(), kind == ScoreKind::Choice);
        }
    }
    let text = String::from_utf8(job.bytes("run/report.md")).unwrap();
    assert!(text.contains("| logic (choice) | ") && text.contains(" % by loss)"), "{text}");

    // Some answers are kept, the same rows of every column, and say what the table says.
    let run = RunFolder::read(&job.path("run")).unwrap();
    assert_eq!(run.answers.keys().collect::<Vec<_>>(), [&Column::Base, &Column::Final]);
    for task in &report.tasks {
        let [base, last] = [Column::Base, Column::Final].map(|column| &run.answers[&column][&task.task]);
        assert_eq!(base.len(), 8);
        let rows = |answers: &[cpift_model::evaluation::Answer]| -> Vec<(usize, String)> {
            answers.iter().map(|answer| (answer.row, answer.prompt.clone())).collect()
        };
        assert_eq!(rows(base), rows(last));
        // All eight rows are kept, so that their share is the score.
        let right = last.iter().filter(|answer| answer.right).count() as f64 / 8.0;
        assert_eq!(task.scores[1].unwrap().score, Some(right));
    }

    // The same recipe says the same again, and the answers are not made anew.
    let before = job.bytes("run/answers.json");
    let again = job.run(&recipe, "run", true, &mut Silent).unwrap();
    assert_eq!((again.tasks, job.bytes("run/answers.json")), (report.tasks, before));
}

/// The task logic with `t` or `f` as answers.
fn letters(job: &SmallJob) {
    for split in ["train", "eval"] {
        let path = job.path(&format!("logic.{split}.jsonl"));
        let mut text = String::new();
        for line in fs::read_to_string(&path).unwrap().lines() {
            let mut row: Value = serde_json::from_str(line).unwrap();
            row["completion"] = json!(&row["completion"].as_str().unwrap()[..1]);
            text.push_str(&format!("{row}\n"));
        }
        fs::write(&path, text).unwrap();
    }
}

fn evaluate(job: &SmallJob, model: &str, data: &str, settings: &FileSettings) -> FileScore {
    let device = Device::cpu(std::num::NonZeroUsize::new(1)).unwrap();
    let mut evaluator = Evaluator::open(&device, &job.path(model), ComputeType::F32).unwrap();
    evaluator.evaluate(&job.path(data), settings, &mut |_| Ok(())).unwrap()
}

fn answered(score: &str) -> FileSettings {
    let answers = AnswerSettings { scoring: score.parse().unwrap(), ..AnswerSettings::default() };
    FileSettings { answers: Some(answers), ..FileSettings::default() }
}

/// Answers are counted as they are complete, from none to all, behind the losses.
#[test]
fn an_evaluation_tells_how_many_rows_are_answered() {
    let job = SmallJob::new();
    job.run(&job.recipe(&[("method", json!("joint"))]), "run", false, &mut Silent).unwrap();
    let device = Device::cpu(std::num::NonZeroUsize::new(1)).unwrap();
    let mut evaluator = Evaluator::open(&device, &job.path("run/final"), ComputeType::F32).unwrap();
    let mut told = Vec::new();
    let mut observe = |progress: EvaluationProgress| {
        told.push((progress.phase, progress.done, progress.rows));
        Ok(())
    };
    let data = job.path("code.eval.jsonl");
    let rows = evaluator.evaluate(&data, &answered("exact"), &mut observe).unwrap().rows.len();
    let first = told.iter().position(|(phase, ..)| *phase == EvaluationPhase::Answers).unwrap();
    let (losses, answers) = told.split_at(first);
    assert_eq!(losses.last(), Some(&(EvaluationPhase::Losses, rows, rows)));
    assert_eq!(answers.first(), Some(&(EvaluationPhase::Answers, 0, rows)));
    assert_eq!(answers.last(), Some(&(EvaluationPhase::Answers, rows, rows)));
    assert!(answers.is_sorted_by_key(|(_, done, _)| *done), "{answers:?}");
    assert!(answers.len() > 2, "not only before and after the only batch: {answers:?}");
}

/// The option of the lowest loss is that of the file in which it is the answer.
#[test]
fn the_losses_of_options_are_those_of_rows_that_have_them_as_answers() {
    let job = SmallJob::new();
    letters(&job);
    job.run(&scored(&job, ["exact", "exact", "choice"]), "run", false, &mut Silent).unwrap();
    let score = evaluate(&job, "run/final", "logic.eval.jsonl", &answered("choice"));
    let rows: Vec<Value> = fs::read_to_string(job.path("logic.eval.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let losses = ["f", "t"].map(|letter| {
        let with = |row: &Value| format!("{}\n", json!({"prompt": row["prompt"], "completion": letter}));
        fs::write(job.path("all.jsonl"), rows.iter().map(with).collect::<String>()).unwrap();
        let scored = evaluate(&job, "run/final", "all.jsonl", &FileSettings::default());
        scored.rows.iter().map(|row| row.loss * row.tokens as f64).collect::<Vec<f64>>()
    });
    let mut right = 0;
    for (index, row) in rows.iter().enumerate() {
        let least = if losses[0][index] <= losses[1][index] { "f" } else { "t" };
        let answer = score.rows[index].answer.as_ref().unwrap();
        assert_eq!(answer.right_by_loss, Some(row["completion"] == least), "row {index}");
        right += usize::from(row["completion"] == least);
    }
    assert_eq!(score.choice_by_loss, Some(right as f64 / rows.len() as f64));
}

#[test]
fn examples_change_what_is_measured_and_nothing_of_the_model() {
    let job = SmallJob::new();
    let mut recipe = scored(&job, ["exact", "number", "exact"]);
    job.run(&recipe, "plain", false, &mut Silent).unwrap();
    recipe.task[1].shots = 2;
    // Longer than `max_length`: that is about what is trained on.
    recipe.model.max_length = 24;
    let report = job.run(&recipe, "shots", false, &mut Silent).unwrap();
    let plan = job.plan(&recipe).unwrap();
    assert_eq!(plan.tasks[1].eval_rows, Some(8));
    let prompt = &RunFolder::read(&job.path("shots")).unwrap().answers[&Column::Final]["code"][0].prompt;
    assert_eq!(prompt.matches(";(").count(), 2, "{prompt}");
    assert!(prompt.ends_with(';'), "{prompt}");
    assert!(report.tasks[1].scores[1].unwrap().loss > 0.0);
}

/// Rows that are held back have examples before them, which are of the rows that stay; the model is the same.
#[test]
fn examples_of_a_split_are_of_the_rows_that_are_trained_on() {
    let job = SmallJob::new();
    let mut recipe = job.recipe(&[("method", json!("joint"))]);
    (recipe.task[1].eval, recipe.task[1].eval_share) = (None, Some(0.15));
    job.run(&recipe, "plain", false, &mut Silent).unwrap();
    recipe.task[1].shots = 2;
    recipe.model.max_length = 24;
    job.run(&recipe, "shots", false, &mut Silent).unwrap();
    let model = "final/model.safetensors";
    assert_eq!(job.bytes(&format!("plain/{model}")), job.bytes(&format!("shots/{model}")));

    let answers =
        |run: &str| RunFolder::read(&job.path(run)).unwrap().answers[&Column::Final]["code"].clone();
    let (plain, shots) = (answers("plain"), answers("shots"));
    let data = fs::read_to_string(job.path("code.train.jsonl")).unwrap();
    let rows: Vec<Value> = data.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let eval_rows = job.plan(&recipe).unwrap().tasks[1].eval_rows.unwrap() as usize;
    assert!(eval_rows <= 8, "all are kept");
    let held_back: Vec<usize> = plain.iter().map(|answer| answer.row).collect();
    assert_eq!((held_back.len(), plain.len()), (eval_rows, shots.len()));
    for (plain, shots) in plain.iter().zip(&shots) {
        assert_eq!((plain.row, &plain.file), (shots.row, &job.path("code.train.jsonl")));
        let own = rows[plain.row - 1]["prompt"].as_str().unwrap();
        let examples = shots.prompt.strip_suffix(own).expect("the row's own prompt at the end");
        let shown: Vec<usize> = (1..=rows.len())
            .filter(|row| {
                let row = &rows[row - 1];
                let [prompt, answer] = ["prompt", "completion"].map(|key| row[key].as_str().unwrap());
                examples.contains(&format!("{prompt}{answer}"))
            })
            .collect();
        assert_eq!(shown.len(), 2, "{examples}");
        assert!(shown.iter().all(|row| !held_back.contains(row)), "{shown:?} of {held_back:?}");
    }
}

/// Asks to stop once it has been told so often that a part of the losses is measured.
struct Stopper {
    parts: usize,
    seen: usize,
}

impl Observer for Stopper {
    fn event(&mut self, event: Event<'_>) {
        let is_counted = |phase| phase == EvaluationPhase::Losses;
        self.seen += usize::from(
            matches!(event, Event::EvaluationProgress { progress, .. } if is_counted(progress.phase)),
        );
    }

    fn stop_requested(&self) -> bool {
        self.seen >= self.parts
    }
}

#[test]
fn an_evaluation_that_is_stopped_goes_on_with_what_is_missing() {
    let job = SmallJob::new();
    let recipe = scored(&job, ["number", "number", "exact"]);
    let whole = job.run(&recipe, "whole", false, &mut Silent).unwrap();
    // A task tells of two batches of losses, and of answers after every token.
    for (resume, position) in
        [(false, "while evaluating base on code"), (true, "while evaluating base on logic")]
    {
        let mut stopper = Stopper { parts: 3, seen: 0 };
        let error = job.run(&recipe, "run", resume, &mut stopper).unwrap_err();
        assert!(matches!(&error, Error::Interrupted { position: at } if at == position), "{error}");
    }
    let report = job.run(&recipe, "run", true, &mut Silent).unwrap();
    assert_eq!(report.tasks, whole.tasks);
    assert_eq!(job.bytes("run/answers.json"), job.bytes("whole/answers.json"));
}

#[test]
fn what_cannot_be_scored_is_refused_before_anything_is_trained() {
    let job = SmallJob::new();
    let refused = |recipe: &Recipe, expected: &str| {
        let error = job.run(recipe, "run", false, &mut Silent).unwrap_err();
        assert!(error.is_input() && error.to_string().contains(expected), "{error}");
        assert!(!job.path("run").exists());
    };
    let numbers = scored(&job, ["exact", "exact", "number"]);
    refused(
        &numbers,
        "logic.eval.jsonl:1: cannot be scored by `number`: its answer has no number to compare with",
    );
    let json = scored(&job, ["exact", "json", "exact"]);
    refused(&json, "code.eval.jsonl:1: cannot be scored by `json`: its answer is not JSON");
    fs::write(job.path("code.eval.jsonl"), "{\"text\": \"(123)\"}\n").unwrap();
    refused(&scored(&job, ["exact", "number", "exact"]), "task[1].score");
    let mut long = scored(&job, ["exact", "exact", "exact"]);
    long.task[1].max_new_tokens = Some(3);
    refused(&long, "task[1].max_new_tokens");
    long.task[1].max_new_tokens = None;
    long.task[1].shots = 31;
    refused(&long, "has 30 rows that can be examples, and `shots` asks for 31");
}
