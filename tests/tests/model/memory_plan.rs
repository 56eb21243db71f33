//! What the plan of a transformer's memory says, against what is allocated, and what is refused with it.

use cpift_engine::{Buffer, Device, LaunchLog, Placement, bf16};
use cpift_model::Batch;
use cpift_model::transformer::{BatchLimits, Purpose, Recompute, Transformer};
use cpift_tests::devices::gpus;
use cpift_tests::golden::{Golden, NAMES};

/// Batches of so many tokens in one document.
fn limits(tokens: usize) -> BatchLimits {
    BatchLimits { tokens, documents: 1 }
}

/// Keys that no kernel takes are refused before anything runs, with what to do.
#[test]
fn keys_too_long_for_kernels_are_refused_on_gpus() {
    for device in gpus() {
        let mut config = Golden::open("qwen3_5").config;
        for sizes in config.attention.iter_mut().filter_map(|layer| layer.delta_net.as_mut()) {
            sizes.key_dim = 257;
        }
        let message =
            Transformer::<f32>::new(&config, &device, 8, Recompute::Nothing).unwrap_err().to_string();
        let expected = "keys of 257 elements: GPU kernels take up to 256; use `--device cpu`";
        assert!(message.contains(expected), "{message}");
        let plan = Transformer::<f32>::memory_plan(&config, &device, limits(8), Purpose::Inference);
        assert!(plan.unwrap_err().to_string().contains(expected));
    }
}

/// What a gated DeltaNet takes for a moment grows with the number of documents, on a GPU that runs nothing and only counts.
#[test]
fn the_plan_holds_for_very_short_documents() {
    const TOKENS: usize = 96;
    let golden = Golden::open("qwen3_5");
    for device in gpus() {
        let Device::Gpu(gpu) = &device else { unreachable!("{device:?}") };
        let planned = |documents| {
            let limits = BatchLimits { tokens: TOKENS, documents };
            let purpose = Purpose::Training { recompute: Recompute::Nothing };
            let plan = Transformer::<f32>::memory_plan(&golden.config, &device, limits, purpose).unwrap();
            plan.parts.iter().find(|(part, _)| *part == "temporary buffers").unwrap().1 as u64
        };
        let taken = |documents: usize| {
            let device = Device::logging(&LaunchLog::like(gpu));
            let mut transformer =
                Transformer::<f32>::new(&golden.config, &device, TOKENS, Recompute::Nothing).unwrap();
            let length = golden.config.layout().unwrap().len();
            let zeros = |length| Buffer::<f32>::zeros(&device, length).unwrap();
            let (weights, mut gradients, mut losses) = (zeros(length), zeros(length), zeros(TOKENS));
            let held = device.peak_memory_bytes(Placement::Device).unwrap();
            let (mut batch, each) = (Batch::new(), TOKENS / documents);
            (0..documents).for_each(|_| batch.push(&vec![0; each], &vec![true; each]).unwrap());
            let (gradients, losses) = (gradients.view_mut(), losses.view_mut());
            device
                .record(|| transformer.loss_and_gradients(weights.view(), &batch, 1.0, gradients, losses))
                .unwrap();
            device.peak_memory_bytes(Placement::Device).unwrap() - held
        };
        for documents in [1, 2, 32, 48, TOKENS] {
            let (taken, planned) = (taken(documents), planned(documents));
            assert!(taken <= planned, "{documents} documents: {taken} taken, {planned} planned");
        }
        assert!(taken(TOKENS) > planned(1), "a plan for long documents is too low for short ones");
    }
}

#[test]
fn the_plan_is_what_is_allocated() {
    let device = Device::cpu(None).unwrap();
    for name in NAMES {
        let golden = Golden::open(name);
        let training = Recompute::ALL.map(|recompute| Purpose::Training { recompute });
        for purpose in [&[Purpose::Inference], &training[..]].concat() {
            let plan = |tokens| {
                Transformer::<f32>::memory_plan(&golden.config, &device, limits(tokens), purpose)
                    .unwrap()
                    .total()
            };
            // Whole chunks of the gated delta rule.
            assert_eq!(plan(384) - plan(256), plan(256) - plan(128), "{name}: grows with the tokens");
        }
        let total = |purpose| {
            Transformer::<f32>::memory_plan(&golden.config, &device, limits(512), purpose).unwrap().total()
        };
        let [kept, without_mlps, without_layers] = training.map(total);
        let inference = total(Purpose::Inference);
        assert!(inference < without_layers && without_layers < without_mlps && without_mlps < kept, "{name}");

        let purpose = Purpose::Training { recompute: Recompute::Nothing };
        let single = Transformer::<f32>::memory_plan(&golden.config, &device, limits(512), purpose).unwrap();
        let half = Transformer::<bf16>::memory_plan(&golden.config, &device, limits(512), purpose).unwrap();
        for ((part, single), (_, half)) in single.parts.iter().zip(&half.parts) {
            match *part {
                "layer inputs" | "mlp" => assert_eq!(2 * half, *single, "{name}: {part}"),
                // Log-sum-exps and 1/rms are f32 in both.
                "attention" | "scratch" => assert!(half < single && *single < 2 * half, "{name}: {part}"),
                _ => {}
            }
        }
    }
}
