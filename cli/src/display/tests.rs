//! The tables as they appear, and that they fit a terminal of 80 columns.

use cpift_model::progress::*;
use cpift_model::recipe::Method;
use cpift_model::score::ScoreKind;
use cpift_model::state_type::{LargerState, StateType};
use cpift_model::transformer::Recompute;

use super::style::Style;
use super::{overlap, plan, reports};

const NAMES: [&str; 5] = ["arithmetic", "code", "logic", "instruction", "chat"];

fn expect(text: &str, expected: &str) {
    fits(text);
    assert_eq!(text, expected, "\n{text}");
}

const OVERLAP: &str = "\
Overlap of the cores
             arithmetic        code       logic  instruction        chat
────────────────────────────────────────────────────────────────────────
arithmetic            ·  0.013 ×2.6  0.023 ×4.6   0.033 ×6.6  0.043 ×8.6
code                  -           ·  0.033 ×6.6   0.043 ×8.6   0.053 ×11
logic              52 %        53 %           ·    0.053 ×11   0.063 ×13
instruction        53 %        54 %        55 %            ·   0.073 ×15
chat               54 %        55 %        56 %         57 %           ·
Above the diagonal: Jaccard overlap and its lift over chance (0.0050).
Below: how often a shared parameter moved to the same side.
Groups, joined from an overlap of 0.05 on
  1  logic, instruction, chat
  2  arithmetic
  3  code
";

const CORES: &str = "\
Cores
task         parameters    move  threshold  by layer
────────────────────────────────────────────────────
arithmetic       10 000  6.10 %     1.5e-3      ▂▃█▂
code             10 000  6.10 %     3.0e-3      ▂▃█▂
logic            10 000  6.10 %     4.5e-3      ▂▃█▂
instruction      10 000  6.10 %     6.0e-3      ▂▃█▂
chat             10 000  6.10 %     7.5e-3      ▂▃█▂
Move: ‖θi − θ0‖ / ‖θ0‖. Layers from embedding to head.

kind          arithmetic    code   logic  instructi…    chat
────────────────────────────────────────────────────────────
embed_tokens      25.0 %  25.0 %  25.0 %      25.0 %  25.0 %
q_proj            75.0 %  75.0 %  75.0 %      75.0 %  75.0 %
";

const FUSION: &str = "\
Fusion backbone `mean`
folded in  tensors  least angle  median  largest  LERP
──────────────────────────────────────────────────────
code             5        0.57°   1.72°    2.86°     1
logic            5        0.57°   1.72°    2.86°     1
interpolated linearly: 2 tensors (small angle)
45 678 parameters are in one core and taken from that task.
2 345 are in several, 987 of them with updates to both sides.
";

const SCORES: &str = "\
Every task before and after
              base         probe         fused         final
task          loss  exact   loss  exact   loss  exact   loss   exact
────────────────────────────────────────────────────────────────────
arithmetic   2.500   0.0%  0.020  98.0%  1.250  25.0%  0.100  100.0%
code         3.500   0.0%  0.020  98.0%  1.250  25.0%  0.100  100.0%
logic        4.500   0.0%  0.020  98.0%  1.250  25.0%  0.100  100.0%
instruction  5.500   0.0%  0.020  98.0%  1.250      -  0.100  100.0%
chat         6.500   0.0%      -      -  1.250  25.0%  0.100  100.0%
────────────────────────────────────────────────────────────────────
mean         4.500   0.0%      -      -  1.250      -  0.100  100.0%
Perplexity
task            base  probe  fused  final
─────────────────────────────────────────
arithmetic    12.182  1.020  3.490  1.105
code          33.115  1.020  3.490  1.105
logic         90.017  1.020  3.490  1.105
instruction  244.692  1.020  3.490  1.105
chat         665.142      -  3.490  1.105
";

fn fits(text: &str) {
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
        assert_eq!(line, line.trim_end(), "no spaces at the end");
    }
}

#[test]
fn the_plan_names_everything_before_work_begins() {
    let task = |name: &str, rows| TaskPlan {
        name: name.to_owned(),
        train_rows: rows,
        train_tokens: 40 * rows,
        supervised_tokens: 9 * rows,
        long_rows: 2,
        eval_rows: (rows > 1000).then_some(200),
        train: None,
        eval: None,
        notices: Vec::new(),
    };
    let plan = Plan {
        method: Method::Cpift,
        device: "cpu (2 threads, AVX-512)".to_owned(),
        architecture: "LlamaForCausalLM".to_owned(),
        parameters: 1_048_576,
        tasks: vec![task("arithmetic", 2000), task("code", 900)],
        measures: Vec::new(),
        trainings: vec![
            TrainingPlan {
                kind: TrainingKind::Probe,
                title: "probe arithmetic".to_owned(),
                steps: 120,
                epochs: Some(0.5),
                tokens: 491_520,
            },
            TrainingPlan {
                kind: TrainingKind::Integrate,
                title: "integrate".to_owned(),
                steps: 1200,
                epochs: None,
                tokens: 4_915_200,
            },
        ],
        memory: vec![
            MemoryPart { name: "weights".to_owned(), bytes: 4 << 20, on_host: false },
            MemoryPart { name: "activations".to_owned(), bytes: 12 << 20, on_host: false },
        ],
        disk_bytes: 64 << 20,
        disk_bytes_without_probes: Some(48 << 20),
        stages: [(StageKind::Probe, 64), (StageKind::Integrate, 40)]
            .map(|(stage, mebibytes)| StagePlan {
                stage,
                memory_bytes: 16 << 20,
                disk_bytes: mebibytes << 20,
                disk_bytes_after: (mebibytes - 10) << 20,
            })
            .into(),
        evaluations: 0,
        evaluation_flops: 0.0,
        flops_per_evaluation: 0.0,
        state: StateType::Exact,
        recompute: Recompute::Nothing,
        too_large: Vec::new(),
        training_flops: 9e12,
        stage_evaluations: [Column::Base, Column::Final]
            .map(|column| StageEvaluation { column, tasks: 1, losses: 200, answers: 200, flops: 9e11 })
            .into(),
        notices: Vec::new(),
        rank_bytes: Vec::new(),
    };
    let text = plan::render(&plan, Some(100e9), Style::PLAIN);
    fits(&text);
    assert_eq!(
        text,
        "\
device  cpu (2 threads, AVX-512)
model   LlamaForCausalLM, 1 048 576 parameters
method  cpift, 2 tasks, 1 320 optimizer steps
memory  16.0 MiB at the peak
disk    64.0 MiB in the run folder; 48.0 MiB where probes cannot stay
time    1 min 40 s to 5 min 00 s of training (matrix products here: 100 GFLOP/s)
measure 2 evaluations between stages, at most 20.0 % more to compute

task         rows  tokens  supervised  too long  eval rows
──────────────────────────────────────────────────────────
arithmetic  2 000   80.0k       18.0k         2        200
code          900   36.0k       8.10k         2          -
"
    );
    let mut offloaded = plan.clone();
    offloaded.device = "cuda:0 (a GPU)".to_owned();
    offloaded.memory[1].on_host = true;
    (offloaded.state, offloaded.recompute) = (StateType::Offload, Recompute::Mlp);
    offloaded.too_large =
        [StateType::Exact, StateType::Compact].map(|state| LargerState { state, bytes: 64 << 20 }).into();
    let text = plan::render(&offloaded, None, Style::PLAIN);
    let expected = "16.0 MiB at the peak: 4.00 MiB on the device, 12.0 MiB on the host, MLPs computed again, with compact \
         state, offloaded (exact state would take 64.0 MiB, compact state would take 64.0 MiB, more than there is)";
    assert!(text.split_whitespace().collect::<Vec<_>>().join(" ").contains(expected), "{text}");

    let details = plan::render_details(&plan);
    fits(&details);
    assert_eq!(
        details,
        "\
training          steps  tokens
───────────────────────────────
probe arithmetic    120    492k
integrate         1 200   4.92M
All probes have the mean of the steps that epochs = 0.5 takes of each task.

measured  tasks  losses  answers
────────────────────────────────
base          1     200      200
final         1     200      200

memory          bytes  share
────────────────────────────
weights      4.00 MiB   25 %
activations  12.0 MiB   75 %
────────────────────────────
all          16.0 MiB

stage        memory      disk  disk after it
────────────────────────────────────────────
probe      16.0 MiB  64.0 MiB       54.0 MiB
integrate  16.0 MiB  40.0 MiB       30.0 MiB
"
    );
}

fn overlaps(names: &[String], threshold: f64) -> GroupReport {
    let count = names.len();
    let jaccard = |i: usize, j: usize| if i == j { 1.0 } else { 0.01 * (i + j) as f64 + 0.003 };
    let agreement = |i: usize, j: usize| (i + j != 1).then_some(0.5 + 0.05 * (i + j) as f64 / count as f64);
    let matrix = |i: usize| (0..count).map(|j| jaccard(i, j)).collect();
    GroupReport {
        tasks: names.to_vec(),
        jaccard: (0..count).map(matrix).collect(),
        chance: 0.005,
        sign_agreement: (0..count).map(|i| (0..count).map(|j| agreement(i, j)).collect()).collect(),
        threshold,
        groups: vec![vec![2, 3, 4], vec![0], vec![1]],
    }
}

#[test]
fn overlaps_show_lift_agreement_and_groups() {
    let report = overlaps(&NAMES.map(str::to_owned), 0.05);
    let text = overlap::render(&report, Style::PLAIN);
    fits(&text);
    expect(&text, OVERLAP);
}

#[test]
fn many_tasks_become_a_list_of_pairs() {
    let names: Vec<String> = (0..9).map(|index| format!("a task with a long name {index}")).collect();
    let text = overlap::render(&overlaps(&names, 0.004), Style::PLAIN);
    fits(&text.lines().filter(|line| !line.starts_with("  1 ")).collect::<Vec<_>>().join("\n"));
    assert!(
        text.contains("\na task with a long … + a task with a long …    0.153   ×31       58 %\n"),
        "{text}"
    );
    assert!(text.contains("and 16 pairs that overlap less: see the JSON of the groups"), "{text}");
    assert!(text.contains("Chance alone (0.005) reaches the threshold 0.004"), "{text}");
}

#[test]
fn cores_show_where_they_lie() {
    let tasks = NAMES.iter().enumerate().map(|(index, name)| TaskCore {
        task: (*name).to_owned(),
        size: 10_000,
        threshold: 1.5e-3 * (index + 1) as f64,
        relative_move: 0.061,
        by_layer: ["embedding", "layer 0", "layer 1", "head"]
            .into_iter()
            .zip([1000, 2000, 6000, 1000])
            .map(|(name, size)| (name.to_owned(), size))
            .collect(),
        by_kind: vec![("embed_tokens".to_owned(), 2500), ("q_proj".to_owned(), 7500)],
    });
    expect(
        &reports::cores(
            &CoreReport { tasks: tasks.collect(), model_by_layer: Vec::new(), model_by_kind: Vec::new() },
            Style::PLAIN,
        ),
        CORES,
    );
}

#[test]
fn fusion_shows_angles_and_fallbacks() {
    let slerp = |task: &str, index: usize| SlerpReport {
        task: task.to_owned(),
        tensor: format!("tensor {index}"),
        angle: 0.01 * (1 + index) as f64,
        fallback: (index == 0).then(|| "small angle".to_owned()),
    };
    let report = FusionReport {
        backbone: "mean".to_owned(),
        slerps: ["code", "logic"]
            .iter()
            .flat_map(|task| (0..5).map(move |index| slerp(task, index)))
            .collect(),
        transplanted: 45_678,
        conflicts: 2345,
        sign_conflicts: 987,
    };
    expect(&reports::fusion(&report, Style::PLAIN), FUSION);
    let last = FusionReport { backbone: "last".to_owned(), slerps: Vec::new(), ..report };
    expect(reports::fusion(&last, Style::PLAIN).lines().next().unwrap_or_default(), "Fusion backbone `last`");
}

#[test]
fn the_closing_table_has_every_task_in_every_column() {
    let score = |loss: f64, share: Option<f64>| {
        Some(Score {
            loss,
            score: share,
            score_kind: ScoreKind::Exact,
            exact_match: share,
            choice_by_loss: None,
            tokens: 900,
            rows: 100,
        })
    };
    let tasks = NAMES.iter().enumerate().map(|(index, name)| TaskScores {
        task: (*name).to_owned(),
        scores: vec![
            score(2.5 + index as f64, Some(0.0)),
            if index == 4 { None } else { score(0.02, Some(0.98)) },
            score(1.25, if index == 3 { None } else { Some(0.25) }),
            score(0.1, Some(1.0)),
        ],
    });
    let mut report = JobReport {
        method: Method::Cpift,
        columns: vec![Column::Base, Column::Probe, Column::Fused, Column::Final],
        tasks: tasks.collect(),
        measures: Vec::new(),
        frozen_verified: 31_415,
        seconds: 163.0,
        steps: 720,
        model: Some("runs/see saw/final".into()),
    };
    expect(&reports::scores(&report, Style::PLAIN), SCORES);
    expect(
        &reports::ending(&report, "runs/see saw".as_ref(), Style::PLAIN),
        "720 steps in 2 min 43 s; 31 415 frozen parameters checked: not a bit changed\n\
         model runs/see saw/final\n\
         try it: cpift-engine generate 'runs/see saw/final' --prompt \"…\"\n\
         charts: cpift-engine report 'runs/see saw'\n",
    );
    // Tasks that are scored in different ways.
    for score in report.tasks[1].scores.iter_mut().flatten() {
        (score.score_kind, score.exact_match) = (ScoreKind::Choice, Some(0.0));
        score.choice_by_loss = Some(0.5);
    }
    let mixed = reports::scores(&report, Style::PLAIN);
    fits(&mixed);
    for line in [
        "task                  loss  score   loss  score   loss  score   loss   score",
        "arithmetic (exact)   2.500   0.0%  0.020  98.0%  1.250  25.0%  0.100  100.0%",
        "code (choice)        3.500   0.0%  0.020  98.0%  1.250  25.0%  0.100  100.0%",
        "code, by loss: base 50.0%, probe 50.0%, fused 50.0%, final 50.0%",
    ] {
        assert!(mixed.contains(line), "no `{line}` in\n{mixed}");
    }
    for task in &mut report.tasks {
        task.scores.fill(None);
    }
    expect(&reports::scores(&report, Style::PLAIN), "No task has an `eval` file: nothing was measured.\n");
}
