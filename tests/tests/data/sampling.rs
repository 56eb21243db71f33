//! Which rows each step sees, and evaluation batches.

use std::collections::BTreeMap;
use std::sync::Arc;

use cpift_model::data::{
    Dataset, SampledRow, Sampler, SamplerSettings, Source, StepBatches, balanced_sample, evaluation_batches,
};
use cpift_model::recipe::{MixtureOrder, MixtureSettings, MixtureShares};
use cpift_model::{Batch, IGNORE, Tokenizer};
use cpift_tests::data::{DataFile, words_folder};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::json;

/// A data set of rows of these lengths (at least 3 tokens: prompt, answer, EOS) of random words.
fn dataset(lengths: &[usize], seed: u64) -> Arc<Dataset> {
    let words = words_folder();
    let tokenizer = Tokenizer::from_folder(words.path()).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut text = |count: usize| -> String {
        (0..count).map(|_| format!("w{} ", random.next_u32() % 10)).collect::<String>().trim().to_owned()
    };
    let row = |&length: &usize| {
        let prompt = 1 + (length - 3) / 2;
        json!({"prompt": text(prompt), "completion": text(length - 1 - prompt)})
    };
    let rows: Vec<_> = lengths.iter().map(row).collect();
    let dataset = DataFile::rows(&rows).load(&tokenizer).unwrap();
    let made: Vec<usize> = dataset.rows().iter().map(|row| row.tokens.len()).collect();
    assert_eq!(made, lengths);
    Arc::new(dataset)
}

fn random_lengths(count: usize, most: usize, seed: u64) -> Vec<usize> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| 3 + random.next_u32() as usize % (most - 2)).collect()
}

fn settings(batch_size: usize, accumulate: usize, shuffle: bool, pack: bool) -> SamplerSettings {
    SamplerSettings {
        seed: 17,
        purpose: "test".into(),
        batch_size,
        accumulate,
        max_length: 32,
        shuffle,
        pack,
        mixture: MixtureSettings::default(),
    }
}

fn sampler(datasets: &[(Arc<Dataset>, f64)], settings: SamplerSettings) -> Sampler {
    let sources = datasets.iter().map(|(dataset, weight)| Source::whole(dataset.clone(), *weight)).collect();
    Sampler::new(sources, settings).unwrap()
}

fn draws(batches: &StepBatches) -> Vec<SampledRow> {
    batches.documents.iter().flatten().copied().collect()
}

/// The batches hold exactly the rows that `documents` names, and the counts are theirs.
fn check(batches: &StepBatches, datasets: &[Arc<Dataset>]) {
    let mut counted = vec![0; datasets.len()];
    for (batch, documents) in batches.micro.iter().zip(&batches.documents) {
        let mut expected = Batch::new();
        for draw in documents {
            let row = &datasets[draw.source].rows()[draw.row];
            expected.push(&row.tokens, &row.supervised).unwrap();
            counted[draw.source] += 1;
        }
        assert_eq!(*batch, expected);
    }
    assert_eq!(counted, batches.rows_per_source);
    let supervised: usize = batches.micro.iter().map(Batch::supervised_tokens).sum();
    assert_eq!(batches.supervised_tokens, supervised);
}

#[test]
fn without_shuffle_and_packing_rows_come_in_file_order() {
    let data = dataset(&random_lengths(23, 12, 1), 1);
    let mut sampler = sampler(&[(data.clone(), 1.0)], settings(3, 2, false, false));
    let mut next = 0;
    for step in 0..20 {
        let batches = sampler.batches(step).unwrap();
        assert_eq!(batches.micro.len(), 2);
        assert!(batches.micro.iter().all(|batch| batch.documents() == 3));
        for draw in draws(&batches) {
            assert_eq!(draw, SampledRow { source: 0, row: next % 23 });
            next += 1;
        }
        check(&batches, std::slice::from_ref(&data));
    }
    assert_eq!(sampler.steps_for_epochs(1.0), 4);
    assert_eq!(sampler.steps_for_epochs(6.0), 23);
    assert_eq!(sampler.steps_for_epochs(0.5), 2);
    assert_eq!(sampler.steps_for_epochs(1e-6), 1);
}

#[test]
fn every_epoch_has_every_row_once_in_a_new_order() {
    let data = dataset(&random_lengths(101, 20, 2), 2);
    for pack in [false, true] {
        let mut sampler = sampler(&[(data.clone(), 1.0)], settings(1, 1, true, pack));
        let mut orders = Vec::new();
        let mut step = 0;
        for epoch in 1..=3 {
            let mut order = Vec::new();
            while step < sampler.steps_for_epochs(f64::from(epoch)) {
                order.extend(draws(&sampler.batches(step).unwrap()).iter().map(|draw| draw.row));
                step += 1;
            }
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..101).collect::<Vec<_>>(), "pack {pack}, epoch {epoch}");
            orders.push(order);
        }
        assert!(orders[0] != orders[1] && orders[1] != orders[2] && orders[0] != orders[2]);
    }
}

#[test]
fn a_step_is_the_same_whichever_came_before() {
    let tasks = [dataset(&random_lengths(40, 30, 3), 3), dataset(&random_lengths(9, 10, 4), 4)];
    let weighted: Vec<_> = tasks.iter().cloned().zip([1.0, 2.5]).collect();
    for (shuffle, pack) in [(false, false), (true, false), (false, true), (true, true)] {
        let new = || sampler(&weighted, settings(2, 3, shuffle, pack));
        let mut in_order = new();
        let expected: Vec<_> = (0..60).map(|step| in_order.batches(step).unwrap()).collect();
        expected.iter().for_each(|batches| check(batches, &tasks));
        let mut any_order = new();
        for step in [59, 3, 40, 41, 0, 17, 58, 2, 39] {
            assert_eq!(any_order.batches(step).unwrap(), expected[step as usize]);
            assert_eq!(new().batches(step).unwrap(), expected[step as usize]);
        }
    }
}

#[test]
fn seed_and_purpose_change_the_order() {
    let data = dataset(&random_lengths(64, 10, 5), 5);
    let order = |settings| draws(&sampler(&[(data.clone(), 1.0)], settings).batches(0).unwrap());
    let base = settings(64, 1, true, false);
    let first = order(base.clone());
    assert_eq!(first, order(base.clone()));
    assert_ne!(first, order(SamplerSettings { seed: 18, ..base.clone() }));
    assert_ne!(first, order(SamplerSettings { purpose: "other".into(), ..base }));
}

#[test]
fn packing_fills_sequences_and_splits_no_row() {
    let data = dataset(&random_lengths(500, 32, 6), 6);
    let mut packed = sampler(&[(data.clone(), 1.0)], settings(1, 1, true, true));
    let steps = packed.steps_for_epochs(1.0);
    for step in 0..steps {
        let batches = packed.batches(step).unwrap();
        assert!(batches.micro[0].tokens.len() <= 32);
        check(&batches, std::slice::from_ref(&data));
    }
    // First fit leaves little room; one row a sequence would need 500.
    let least = data.tokens().div_ceil(32) as u64;
    assert!(steps <= least + least / 10, "{steps} sequences, {least} at least");
    assert_eq!(packed.max_micro_batch_tokens(), 32);
}

#[test]
fn weights_are_shares_of_the_rows() {
    let tasks = [
        dataset(&random_lengths(100, 10, 7), 7),
        dataset(&random_lengths(300, 10, 8), 8),
        dataset(&random_lengths(50, 10, 9), 9),
    ];
    let weighted: Vec<_> = tasks.iter().cloned().zip([1.0, 1.0, 2.0]).collect();
    for shuffle in [false, true] {
        let mut mixed = sampler(&weighted, settings(10, 1, shuffle, false));
        let mut counts = [0_usize; 3];
        let mut seen: Vec<BTreeMap<usize, usize>> = vec![BTreeMap::new(); 3];
        for step in 0..45 * 8 {
            let batches = mixed.batches(step).unwrap();
            for draw in draws(&batches) {
                *seen[draw.source].entry(draw.row).or_default() += 1;
            }
            for (count, rows) in counts.iter_mut().zip(&batches.rows_per_source) {
                *count += rows;
            }
            if !shuffle {
                // Spread evenly: half of every ten rows, give or take the rounding.
                assert!((4..=6).contains(&batches.rows_per_source[2]));
            }
        }
        assert_eq!(counts, [113 * 8, 112 * 8, 225 * 8]);
        for (task, seen) in tasks.iter().zip(&seen) {
            // No row comes again before all others of its task have come.
            let most = seen.values().max().unwrap();
            assert_eq!(seen.len(), task.len());
            assert!(seen.values().all(|count| most - count <= 1));
        }
    }
}

#[test]
fn micro_batches_stay_below_what_is_planned() {
    let tasks = [dataset(&random_lengths(30, 32, 10), 10), dataset(&random_lengths(30, 8, 11), 11)];
    let weighted: Vec<_> = tasks.iter().cloned().map(|task| (task, 1.0)).collect();
    for pack in [false, true] {
        let mut sampler = sampler(&weighted, settings(4, 2, true, pack));
        let most = sampler.max_micro_batch_tokens();
        for step in 0..50 {
            let batches = sampler.batches(step).unwrap();
            assert!(batches.micro.iter().all(|batch| batch.tokens.len() <= most));
        }
    }
}

/// Rows and supervised tokens of every source over whole epochs.
fn shares_of(
    tasks: &[(Arc<Dataset>, f64, f64)],
    mixture: MixtureSettings,
    epochs: f64,
) -> (Vec<usize>, Vec<usize>) {
    let source = |(data, weight, repeat): &(Arc<Dataset>, f64, f64)| Source {
        repeat: *repeat,
        ..Source::whole(data.clone(), *weight)
    };
    let sources = tasks.iter().map(source).collect();
    let mut sampler =
        Sampler::new(sources, SamplerSettings { mixture, ..settings(1, 1, true, false) }).unwrap();
    let (mut rows, mut tokens) = (vec![0; tasks.len()], vec![0; tasks.len()]);
    for step in 0..sampler.steps_for_epochs(epochs) {
        for draw in draws(&sampler.batches(step).unwrap()) {
            rows[draw.source] += 1;
            tokens[draw.source] += tasks[draw.source].0.rows()[draw.row].supervised_tokens();
        }
    }
    (rows, tokens)
}

#[test]
fn a_mixture_divides_rows_or_tokens() {
    let large = dataset(&[4; 90], 20);
    let small = dataset(&[16; 10], 21);
    let tasks = |repeat| [(large.clone(), 1.0, 1.0), (small.clone(), 1.0, repeat)];
    let mixture = |shares, temperature| MixtureSettings {
        shares,
        temperature: Some(temperature),
        ..MixtureSettings::default()
    };
    let rows = |shares, temperature, repeat| shares_of(&tasks(repeat), mixture(shares, temperature), 1.0).0;
    assert_eq!(rows(MixtureShares::Equal, 1.0, 1.0), [50, 50]);
    assert_eq!(rows(MixtureShares::Rows, 1.0, 1.0), [90, 10]);
    // √90 to √10 is 3 to 1.
    assert_eq!(rows(MixtureShares::Rows, 2.0, 1.0), [75, 25]);
    // Every row of the small one three times.
    assert_eq!(rows(MixtureShares::Rows, 1.0, 3.0), [90, 30]);
    assert_eq!(rows(MixtureShares::Rows, 1.0, 0.5), [90, 5]);
    let equal = MixtureSettings { shares: MixtureShares::Tokens, ..MixtureSettings::default() };
    let ratio = |mixture| {
        let (_, tokens) = shares_of(&tasks(1.0), mixture, 4.0);
        tokens[0] as f64 / tokens[1] as f64
    };
    assert!((ratio(equal) - 1.0).abs() < 0.1);
    // With a temperature what the tasks have counts.
    let of_all = large.supervised_tokens() as f64 / small.supervised_tokens() as f64;
    for (temperature, expected) in [(1.0, of_all), (2.0, of_all.sqrt())] {
        let found = ratio(mixture(MixtureShares::Tokens, temperature));
        assert!((found / expected - 1.0).abs() < 0.1, "temperature {temperature}: {found}, not {expected}");
    }
}

#[test]
fn a_fixed_source_is_gone_through_as_often_as_it_says_and_the_others_share_the_rest() {
    let tasks = [dataset(&[4; 60], 26), dataset(&[4; 20], 27), dataset(&[4; 10], 28)];
    for shares in [MixtureShares::Equal, MixtureShares::Rows, MixtureShares::Tokens] {
        let mixture = MixtureSettings { shares, ..MixtureSettings::default() };
        let fixed = |is_fixed, repeat, index: usize| Source {
            is_fixed,
            repeat,
            ..Source::whole(tasks[index].clone(), 1.0)
        };
        let rows = |sources: Vec<Source>| {
            let settings = SamplerSettings { mixture: mixture.clone(), ..settings(1, 1, true, false) };
            let mut sampler = Sampler::new(sources, settings).unwrap();
            let mut rows = vec![0; 3];
            for step in 0..sampler.steps_for_epochs(1.0) {
                draws(&sampler.batches(step).unwrap()).iter().for_each(|draw| rows[draw.source] += 1);
            }
            rows
        };
        let mut sources = vec![fixed(false, 1.0, 0), fixed(false, 1.0, 1), fixed(true, 3.0, 2)];
        let expected = if shares == MixtureShares::Rows { [60, 20, 30] } else { [40, 40, 30] };
        assert_eq!(rows(sources.clone()), expected, "{shares:?}");
        // As weights it comes to the same proportions, of as many rows as there are.
        Source::by_weights(&mut sources, &mixture);
        let by_weights = rows(sources);
        assert!(
            by_weights
                .iter()
                .zip(expected)
                .all(|(found, expected): (&usize, usize)| found.abs_diff(expected) <= 1),
            "{by_weights:?}"
        );
        assert_eq!(rows(vec![fixed(true, 0.5, 0), fixed(true, 1.0, 1), fixed(true, 3.0, 2)]), [30, 20, 30]);
    }
}

#[test]
fn tokens_of_an_epoch_follow_the_shares() {
    let tasks = [dataset(&[4; 90], 24), dataset(&[16; 10], 25)];
    let sampler = |repeat| {
        let source = |task: &Arc<Dataset>| Source { repeat, ..Source::whole(task.clone(), 1.0) };
        Sampler::new(tasks.iter().map(source).collect(), settings(1, 1, true, true)).unwrap()
    };
    // Half of the rows of each.
    assert_eq!(sampler(1.0).tokens_per_epoch(), 50.0 * 4.0 + 50.0 * 16.0);
    assert_eq!(sampler(2.0).tokens_per_epoch(), 2.0 * sampler(1.0).tokens_per_epoch());
}

#[test]
fn round_robin_takes_the_tasks_in_turn() {
    let tasks = [dataset(&[4; 20], 22), dataset(&[4; 10], 23)];
    let mixture = MixtureSettings {
        shares: MixtureShares::Rows,
        order: MixtureOrder::RoundRobin,
        ..MixtureSettings::default()
    };
    let sources = tasks.iter().map(|task| Source::whole(task.clone(), 1.0)).collect();
    let mut sampler =
        Sampler::new(sources, SamplerSettings { mixture, ..settings(3, 1, true, false) }).unwrap();
    for step in 0..10 {
        assert_eq!(sampler.batches(step).unwrap().rows_per_source, [2, 1], "step {step}");
    }
}

#[test]
fn a_sampler_refuses_what_it_cannot_sample() {
    let data = dataset(&[5, 40], 12);
    let new = |sources, settings| Sampler::new(sources, settings).map(|_| ()).unwrap_err().to_string();
    let source = |rows, weight| vec![Source { rows, ..Source::whole(data.clone(), weight) }];
    assert!(new(vec![], settings(1, 1, true, false)).contains("no data"));
    assert!(new(source(vec![], 1.0), settings(1, 1, true, false)).contains("no rows"));
    assert!(new(source(vec![2], 1.0), settings(1, 1, true, false)).contains("no row 2"));
    assert!(new(source(vec![0], f64::NAN), settings(1, 1, true, false)).contains("weight NaN"));
    assert!(new(source(vec![0], 0.0), settings(1, 1, true, false)).contains("weight 0"));
    assert!(new(source(vec![0, 1], 1.0), settings(1, 1, true, true)).contains("a row of 40 tokens"));
    assert!(new(source(vec![0], 1.0), settings(0, 1, true, true)).contains("batch_size"));
    let mut sampler = Sampler::new(source(vec![0], 1.0), settings(4, 4, true, true)).unwrap();
    assert!(sampler.batches(u64::MAX / 2).is_err());
}

#[test]
fn a_balanced_sample_takes_as_many_rows_of_every_task() {
    let rows = [1000, 200, 600];
    let sample = balanced_sample(&rows, 0.1, 5);
    for (sampled, total) in sample.iter().zip(rows) {
        assert_eq!(sampled.len(), 60);
        assert!(sampled.windows(2).all(|pair| pair[0] < pair[1]) && *sampled.last().unwrap() < total);
    }
    assert_eq!(sample, balanced_sample(&rows, 0.1, 5));
    assert_ne!(sample, balanced_sample(&rows, 0.1, 6));
    assert_ne!(sample[0], sample[2]);
    assert!(balanced_sample(&rows, 1.0, 5).iter().all(|sampled| sampled.len() == 200));
    assert!(balanced_sample(&rows, 1e-9, 5).iter().all(|sampled| sampled.len() == 1));
    assert!(balanced_sample(&[], 0.1, 5).is_empty());
}

#[test]
fn evaluation_takes_every_row_in_order() {
    let data = dataset(&random_lengths(77, 30, 13), 13);
    let mut random = ChaCha8Rng::seed_from_u64(14);
    for max_tokens in [data.longest_row(), 64, 100_000] {
        let mut next = 0;
        for batch in evaluation_batches(&data.name(), data.rows().iter().collect(), max_tokens).unwrap() {
            let batch = batch.unwrap();
            assert!(batch.batch.tokens.len() <= max_tokens && !batch.rows.is_empty());
            assert_eq!(batch.rows.start, next);
            next = batch.rows.end;
            let losses: Vec<f32> =
                (0..batch.batch.tokens.len()).map(|_| random.next_u32() as f32 * 1e-9).collect();
            let measured = batch.batch.document_losses(&losses).unwrap();
            assert_eq!(measured.len(), batch.rows.len());
            let mut position = 0;
            for (row, measured) in batch.rows.clone().zip(measured) {
                let row = &data.rows()[row];
                let mut sum = 0.0;
                for token in 0..row.tokens.len() {
                    if batch.batch.targets[position + token] != IGNORE {
                        sum += f64::from(losses[position + token]);
                    }
                }
                position += row.tokens.len();
                assert_eq!((measured.sum, measured.tokens), (sum, row.supervised_tokens()));
            }
            assert!(batch.batch.document_losses(&losses[1..]).is_err());
        }
        assert_eq!(next, 77);
    }
    let rows = data.rows().iter().collect();
    assert!(evaluation_batches(&data.name(), rows, data.longest_row() - 1).is_err());
}
