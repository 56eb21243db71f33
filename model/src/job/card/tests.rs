use super::*;
use crate::progress::{Column, Score, TaskCore, TaskScores};
use crate::recipe::TaskSettings;
use crate::score::ScoreKind;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn task_plan(name: &str, eval_rows: Option<u64>) -> TaskPlan {
    TaskPlan {
        name: name.to_owned(),
        train_rows: 2000,
        train_tokens: 90_000,
        supervised_tokens: 61_532,
        long_rows: 0,
        eval_rows,
        train: None,
        eval: None,
        notices: Vec::new(),
    }
}

fn process(device: &str) -> ProcessRecord {
    ProcessRecord {
        version: "1.2.3".to_owned(),
        device: device.to_owned(),
        threads: 2,
        system: "linux".to_owned(),
        memory_bytes: None,
        began: String::new(),
        probe: None,
        ranks: 1,
    }
}

fn report(method: Method) -> JobReport {
    let score = |loss, share| Score {
        loss,
        score: Some(share),
        score_kind: ScoreKind::Exact,
        exact_match: Some(share),
        choice_by_loss: None,
        tokens: 100,
        rows: 200,
    };
    JobReport {
        method,
        columns: vec![Column::Base, Column::Final],
        tasks: vec![TaskScores {
            task: "sort".to_owned(),
            scores: vec![Some(score(2.5, 0.0)), Some(score(0.125, 0.98))],
        }],
        measures: Vec::new(),
        frozen_verified: 1345,
        seconds: 12.0,
        steps: 1744,
        model: Some("/Users/someone/runs/good/final".into()),
    }
}

fn recipe() -> Recipe {
    let mut recipe = Recipe::default();
    recipe.model.base = Some(format!("/Users/someone/hub/models--org--name/snapshots/{COMMIT}").into());
    recipe.task.push(TaskSettings {
        name: "sort".to_owned(),
        train: DataFiles::new([PathBuf::from("/Users/someone/secret.jsonl")]),
        eval: Some(DataFiles::new([format!(
            "/Users/someone/hub/datasets--org--rows/snapshots/{COMMIT}/data/test.jsonl"
        )
        .into()])),
        prompt: Some("```{{ question }}".to_owned()),
        ..TaskSettings::default()
    });
    recipe
}

fn facts<'a>(recipe: &'a Recipe, report: &'a JobReport, tasks: &'a [TaskPlan]) -> CardFacts<'a> {
    CardFacts {
        name: "good".to_owned(),
        base: HubOrigin::of_model(recipe.model.base.as_deref().unwrap()),
        header: BaseHeader::parse("---\nlicense: other\nlicense_link: LICENSE.pdf\nlanguage: no\n---\n"),
        family: "llama",
        parameters: 134_515_008,
        from_random: false,
        task_models: Vec::new(),
        datasets: ["org/rows".to_owned()].into(),
        tasks,
        measures: &[],
        report,
        cores: None,
        groups: None,
        recipe,
        training_flops: 1.25e15,
        compute: "f32",
        processes: ["cpu, 2 threads", "cpu, 2 threads", "cpu, 4 threads"].map(process).to_vec(),
        is_chat: true,
        copied: vec!["tokenizer.json".to_owned(), "LICENSE.pdf".to_owned()],
    }
}

#[test]
fn a_card_has_what_the_hub_reads_and_what_people_want_to_know() {
    let (recipe, report, tasks) = (recipe(), report(Method::Cpift), [task_plan("sort", Some(200))]);
    let mut facts = facts(&recipe, &report, &tasks);
    facts.cores = Some(CoreReport {
        tasks: vec![TaskCore {
            task: "sort".to_owned(),
            size: 1_345_150,
            threshold: 0.5,
            relative_move: 0.1,
            by_layer: Vec::new(),
            by_kind: Vec::new(),
        }],
        model_by_layer: Vec::new(),
        model_by_kind: Vec::new(),
    });
    facts.groups = Some(GroupReport {
        tasks: vec!["sort".to_owned()],
        jaccard: vec![vec![1.0]],
        chance: 0.005,
        sign_agreement: vec![vec![None]],
        threshold: 0.1,
        groups: vec![vec![0]],
    });
    let card = text(&facts).unwrap();
    let header = "---\nbase_model: org/name\nbase_model_relation: finetune\ndatasets:\n- org/rows\nlanguage:\n- \"no\"\n\
                  library_name: transformers\nlicense: other\nlicense_link: LICENSE.pdf\npipeline_tag: text-generation\n\
                  tags:\n- cpi-ft\n- cpift-engine\n- conversational\n---\n\n# good\n\n";
    assert!(card.starts_with(header), "{card}");
    for line in [
        "| sort | 2 000 | 61 532 | 200 |",
        "| sort | 2.5000 (12.182) / 0.0 % | 0.1250 (1.133) / 98.0 % |",
        "Measured by cpift-engine on rows that are not among those that the task is trained on.",
        "| cores | sort 1 345 150 parameters |",
        "| method | cpift: importance `net`, cores of 1 % of the parameters, groups {sort} |",
        "| steps | 1 744, 1.2e15 floating-point operations |",
        "| precision | f32; weights saved as f32 |",
        "| made by | cpift-engine 1.2.3 on cpu, 2 threads; cpift-engine 1.2.3 on cpu, 4 threads |",
        "| checked | 1 345 frozen parameters unchanged, bit for bit |",
        "````toml",
        "path = \"good\"  # this folder, or its name on the hub",
        "inputs = tokenizer.apply_chat_template(",
        "The weights are derived from [org/name](https://huggingface.co/org/name), whose licence \
         (`LICENSE.pdf` in this folder) holds.",
    ] {
        assert!(card.lines().any(|present| present == line), "no line `{line}` in\n{card}");
    }
    assert!(card.contains(&format!("base = \"org/name@{COMMIT}\"\n")), "{card}");
    assert!(
        card.contains(&format!("eval = \"hf://datasets/org/rows@{COMMIT}/data/test.jsonl\"\n")),
        "{card}"
    );
    assert!(card.contains("train = \"…\"\n"), "{card}");
    for private in ["someone", "secret", "Users"] {
        assert!(!card.contains(private), "{private}");
    }
}

/// What is not known is left out, and no local path is given to the hub as a base.
#[test]
fn a_card_without_facts_has_no_empty_lines_for_them() {
    let (mut recipe, report, tasks) = (recipe(), report(Method::Joint), [task_plan("sort", None)]);
    recipe.task[0].prompt = None;
    let mut facts = facts(&recipe, &report, &tasks);
    facts.base = None;
    facts.header = BaseHeader::default();
    facts.copied.clear();
    facts.is_chat = false;
    facts.datasets.clear();
    let card = text(&facts).unwrap();
    let header = "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- joint\n- cpift-engine\n---\n";
    assert!(card.starts_with(header), "{card}");
    assert!(
        card.contains("A `llama` model of 134 515 008 parameters, fine-tuned on one task at once"),
        "{card}"
    );
    for absent in ["## Results", "## Licence", "base_model", "| cores |", "apply_chat_template", "license"] {
        assert!(!card.contains(absent), "{absent} in\n{card}");
    }
}

#[test]
fn models_of_tasks_are_bases_as_well() {
    let (recipe, report, tasks) = (recipe(), report(Method::Cpift), [task_plan("sort", Some(1))]);
    let mut facts = facts(&recipe, &report, &tasks);
    let origin =
        |repository: &str| HubOrigin { repository: repository.to_owned(), revision: COMMIT.to_owned() };
    facts.task_models = vec![origin("org/tune"), origin("org/name")];
    let card = text(&facts).unwrap();
    let bases = "base_model:\n- org/name\n- org/tune\nbase_model_relation: finetune\n";
    assert!(card.contains(bases), "{card}");
}

/// The link of a licence whose file is not copied leads to where it is.
#[test]
fn links_of_licences_lead_somewhere() {
    let (recipe, report, tasks) = (recipe(), report(Method::Joint), [task_plan("sort", None)]);
    let mut facts = facts(&recipe, &report, &tasks);
    let mut link = |link: &str| {
        facts.header.license_link = Some(link.to_owned());
        license_link(&facts)
    };
    assert_eq!(link("./LICENSE.pdf").as_deref(), Some("./LICENSE.pdf"));
    assert_eq!(link("https://example.org/terms").as_deref(), Some("https://example.org/terms"));
    for elsewhere in ["terms.pdf", "LICENSE"] {
        let address = format!("https://huggingface.co/org/name/blob/{COMMIT}/{elsewhere}");
        assert_eq!(link(elsewhere), Some(address));
    }
}
