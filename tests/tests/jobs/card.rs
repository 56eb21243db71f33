//! The model card in the folder of the final model.

use std::fs;

use cpift_model::progress::Silent;
use cpift_tests::jobs::SmallJob;
use serde_json::json;

/// Whatever the method, the card is there, says how the model was made and nothing of where, and is made again where it
/// is missing, but not in the place of another.
#[test]
fn the_final_model_has_a_card() {
    let job = SmallJob::new();
    fs::write(job.path("blank/README.md"), "---\nlanguage: en\nlicense: apache-2.0\n---\n# Blank\n").unwrap();
    fs::write(job.path("blank/LICENSE-MODEL"), "terms").unwrap();
    fs::write(job.path("blank/USE_POLICY.md"), "policy").unwrap();
    for (method, tag, sentence) in [
        ("cpift", "cpi-ft", "every task is trained alone"),
        ("joint", "joint", "trained from random weights on 3 tasks at once, their rows mixed."),
        ("sequential", "sequential", "on 3 tasks one after the other."),
        ("staged", "staged", "one group after the other."),
        ("replay", "replay", "on 3 tasks in two stages"),
        ("half", "half", "a random half of every tensor is frozen."),
    ] {
        let recipe = job.recipe(&[("method", json!(method))]);
        job.run(&recipe, method, false, &mut Silent).unwrap();
        let read = || String::from_utf8(job.bytes(&format!("{method}/final/README.md"))).unwrap();
        let card = read();
        let header = format!(
            "---\nlanguage:\n- en\nlibrary_name: transformers\nlicense: apache-2.0\npipeline_tag: text-generation\n\
             tags:\n- {tag}\n- cpift-engine\n---\n\n# {method}\n"
        );
        assert!(card.starts_with(&header), "{card}");
        assert!(card.contains(sentence), "{card}");
        assert!(card.contains("| task | base | "), "{card}");
        assert_eq!(card.contains("| cores | arithmetic "), ["cpift", "staged"].contains(&method), "{card}");
        assert!(!card.contains(".jsonl") && !card.contains(job.path("").to_str().unwrap()), "{card}");

        let copied = |name: &str| job.bytes(&format!("{method}/final/{name}"));
        assert_eq!(
            (copied("LICENSE-MODEL"), copied("USE_POLICY.md")),
            (b"terms".to_vec(), b"policy".to_vec())
        );

        fs::remove_file(job.path(&format!("{method}/final/README.md"))).unwrap();
        job.run(&recipe, method, true, &mut Silent).unwrap();
        assert_eq!(read(), card);
        fs::write(job.path(&format!("{method}/final/README.md")), "my words").unwrap();
        job.run(&recipe, method, true, &mut Silent).unwrap();
        assert_eq!(read(), "my words");
    }
}

/// Rows that were trained on are not given out for others.
#[test]
fn a_card_says_which_rows_were_trained_on_as_well() {
    let job = SmallJob::new();
    fs::copy(job.path("code.train.jsonl"), job.path("code.eval.jsonl")).unwrap();
    let recipe = job.recipe(&[("method", json!("joint"))]);
    job.run(&recipe, "run", false, &mut Silent).unwrap();
    let card = String::from_utf8(job.bytes("run/final/README.md")).unwrap();
    assert!(
        card.contains("Of the rows to evaluate `code` on, 30 are among those it is trained on."),
        "{card}"
    );
    assert!(!card.contains("not among those"), "{card}");
}
