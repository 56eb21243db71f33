//! The whole model's gradients against central differences of its own loss, tensor by tensor, for
//! combinations of features that no golden file has.

use std::path::Path;

use cpift_engine::{Buffer, Device};
use cpift_model::transformer::{Recompute, Transformer, initialize};
use cpift_model::{Batch, ModelConfig};
use cpift_tests::numeric::{dot, random, random_below, widen};

/// The fields all have in common, with room for the others.
fn config(fields: &str) -> ModelConfig {
    let text = format!(
        r#"{{"hidden_size": 20, "intermediate_size": 28, "vocab_size": 37, "num_hidden_layers": 2,
            "initializer_range": 0.25, {fields}}}"#
    );
    ModelConfig::parse(Path::new("config.json"), &text).unwrap()
}

fn configs() -> [ModelConfig; 3] {
    [
        // Norms and biases on queries and keys at once.
        config(
            r#""model_type": "qwen3", "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 4,
               "attention_bias": true, "tie_word_embeddings": true"#,
        ),
        // One key head for all.
        config(
            r#""model_type": "llama", "num_attention_heads": 5, "num_key_value_heads": 1,
               "attention_bias": true, "tie_word_embeddings": false"#,
        ),
        // As many key heads as query heads, and heads wider than the model.
        config(
            r#""model_type": "llama", "num_attention_heads": 3, "head_dim": 18,
               "rope_scaling": {"type": "linear", "factor": 2.0}, "tie_word_embeddings": true"#,
        ),
    ]
}

#[test]
fn every_tensor_matches_central_differences_along_its_gradient() {
    let device = Device::cpu(None).unwrap();
    let mut batch = Batch::new();
    for (seed, length) in [(1, 9), (2, 1), (3, 14)] {
        batch.push(&random_below(seed, length, 37), &vec![true; length]).unwrap();
    }
    for (seed, config) in (10..).zip(configs()) {
        let layout = config.layout().unwrap();
        let mut weights = Buffer::zeros(&device, layout.len()).unwrap();
        initialize(&config, &layout, seed, weights.view_mut()).unwrap();
        // Norms at 1 and biases at 0 would hide what multiplies and adds them.
        let noise = random(seed, layout.len());
        let mut values = weights.to_vec().unwrap();
        for segment in layout.segments().iter().filter(|segment| segment.shape.len() == 1) {
            values[segment.range()].iter_mut().zip(&noise).for_each(|(value, noise)| *value += 0.4 * noise);
        }
        weights.view_mut().copy_from_host(&values).unwrap();

        let mut transformer = Transformer::new(&config, &device, 24, Recompute::Nothing).unwrap();
        let mut gradients = Buffer::zeros(&device, layout.len()).unwrap();
        let mut unread = Buffer::zeros(&device, batch.tokens.len()).unwrap();
        transformer
            .loss_and_gradients(weights.view(), &batch, 1.0, gradients.view_mut(), unread.view_mut())
            .unwrap();
        let gradients = gradients.to_vec().unwrap();
        for segment in layout.segments() {
            let gradient = widen(&gradients[segment.range()]);
            let norm = dot(&gradient, &gradient).sqrt();
            assert!(norm > 1e-3, "{}: a gradient of norm {norm:e} shows nothing", segment.name);
            // The step moves the loss by about 0.02: far above f32's noise, near enough to be straight.
            let distance = 0.01 / norm;
            let mut loss_at = |distance: f64| -> f64 {
                let mut moved = values.clone();
                for (value, slope) in moved[segment.range()].iter_mut().zip(&gradient) {
                    *value += (distance * slope / norm) as f32;
                }
                let moved = Buffer::from_slice(&device, &moved).unwrap();
                widen(&transformer.loss(moved.view(), &batch).unwrap()).iter().sum()
            };
            let slope = (loss_at(distance) - loss_at(-distance)) / (2.0 * distance);
            let error = (slope / norm - 1.0).abs();
            assert!(
                error < 5e-3,
                "{} {}: slope {slope}, gradient {norm}",
                config.family.model_type,
                segment.name
            );
        }
    }
}
