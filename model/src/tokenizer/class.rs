//! The tokenizer class that transformers 5.24 takes for a folder: some read `tokenizer.json` as it is, others
//! build the tokenizer anew from its vocabulary and merges.

use super::special::SpecialNames;
use crate::error::Reasoned;

/// Classes whose tokenizers this program makes as transformers does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// `TokenizersBackend` (earlier `PreTrainedTokenizerFast`), which reads `tokenizer.json` as it is, and every
    /// class that transformers does not know.
    AsFile,
    Llama,
    CodeLlama,
    Gemma,
    Qwen2,
    Qwen35,
    Gpt2,
    GptNeoX,
    Cohere,
    CodeGen,
}

/// The classes that build their tokenizers anew, by name. Decoder-only models declare these: Llama and early
/// Mistral models `LlamaTokenizer`; GPT-2, Phi, OPT, StarCoder2, SmolLM and Granite `GPT2Tokenizer`; Pythia,
/// OLMo, MPT and Mamba `GPTNeoXTokenizer`. Llama 3, Falcon, OLMo 2, Phi-3, GLM and DeepSeek models have
/// tokenizers that are read as they are.
const REBUILT: [(&str, Class); 9] = [
    ("LlamaTokenizer", Class::Llama),
    ("CodeLlamaTokenizer", Class::CodeLlama),
    ("GemmaTokenizer", Class::Gemma),
    ("Qwen2Tokenizer", Class::Qwen2),
    ("Qwen3_5Tokenizer", Class::Qwen35),
    ("GPT2Tokenizer", Class::Gpt2),
    ("GPTNeoXTokenizer", Class::GptNeoX),
    ("CohereTokenizer", Class::Cohere),
    ("CodeGenTokenizer", Class::CodeGen),
];

/// The other classes of transformers 5.24, of encoders, translation, speech and images mostly: they build
/// tokenizers in ways of their own, or are written in Python. In alphabetical order.
const NOT_BUILT: [&str; 97] = [
    "AlbertTokenizer",
    "BartTokenizer",
    "BarthezTokenizer",
    "BartphoTokenizer",
    "BasicTokenizer",
    "BertGenerationTokenizer",
    "BertJapaneseTokenizer",
    "BertTokenizer",
    "BertweetTokenizer",
    "BigBirdTokenizer",
    "BioGptTokenizer",
    "BlenderbotSmallTokenizer",
    "BlenderbotTokenizer",
    "ByT5Tokenizer",
    "CLIPTokenizer",
    "CTRLTokenizer",
    "CamembertTokenizer",
    "CanineTokenizer",
    "CharacterTokenizer",
    "ClvpTokenizer",
    "ConvBertTokenizer",
    "CpmAntTokenizer",
    "CpmTokenizer",
    "DPRContextEncoderTokenizer",
    "DPRQuestionEncoderTokenizer",
    "DPRReaderTokenizer",
    "DebertaTokenizer",
    "DebertaV2Tokenizer",
    "DiaTokenizer",
    "DistilBertTokenizer",
    "EsmTokenizer",
    "EsmcTokenizer",
    "FNetTokenizer",
    "FSMTTokenizer",
    "FastSpeech2ConformerTokenizer",
    "FlaubertTokenizer",
    "FunnelTokenizer",
    "GPTNeoXJapaneseTokenizer",
    "GPTSw3Tokenizer",
    "HerbertTokenizer",
    "LEDTokenizer",
    "LasrTokenizer",
    "LayoutLMv2Tokenizer",
    "LayoutLMv3Tokenizer",
    "LayoutXLMTokenizer",
    "LukeTokenizer",
    "LxmertTokenizer",
    "M2M100Tokenizer",
    "MBart50Tokenizer",
    "MBartTokenizer",
    "MLukeTokenizer",
    "MPNetTokenizer",
    "MarianTokenizer",
    "MarkupLMTokenizer",
    "MecabTokenizer",
    "MgpstrTokenizer",
    "MistralCommonBackend",
    "MobileBertTokenizer",
    "MvpTokenizer",
    "MyT5Tokenizer",
    "NllbTokenizer",
    "NougatTokenizer",
    "OpenAIGPTTokenizer",
    "PLBartTokenizer",
    "ParakeetTokenizer",
    "PegasusTokenizer",
    "PerceiverTokenizer",
    "PhobertTokenizer",
    "Pop2PianoTokenizer",
    "ProphetNetTokenizer",
    "RagTokenizer",
    "ReformerTokenizer",
    "RemBertTokenizer",
    "RoCBertTokenizer",
    "RoFormerTokenizer",
    "RobertaTokenizer",
    "SeamlessM4TTokenizer",
    "SentencePieceBackend",
    "Siglip2Tokenizer",
    "SiglipTokenizer",
    "Speech2TextTokenizer",
    "SpeechT5Tokenizer",
    "SplinterTokenizer",
    "SqueezeBertTokenizer",
    "T5Tokenizer",
    "TapasTokenizer",
    "Tipsv2Tokenizer",
    "UdopTokenizer",
    "VideoPrismTokenizer",
    "VitsTokenizer",
    "Wav2Vec2CTCTokenizer",
    "Wav2Vec2PhonemeCTCTokenizer",
    "WhisperTokenizer",
    "XGLMTokenizer",
    "XLMRobertaTokenizer",
    "XLMTokenizer",
    "XLNetTokenizer",
];

/// The class that transformers registers for a `model_type` of decoder-only models, and whether it holds
/// against the class that a folder declares, because folders of this type are known to declare wrong ones.
/// Types that are not here, `llama` among them, have none.
const REGISTERED: [(&str, Class, bool); 60] = [
    ("codegen", Class::Gpt2, false),
    ("cohere", Class::Cohere, false),
    ("cohere2", Class::Cohere, false),
    ("dbrx", Class::Gpt2, false),
    ("ernie4_5", Class::AsFile, true),
    ("ernie4_5_moe", Class::AsFile, true),
    ("falcon_mamba", Class::GptNeoX, false),
    ("flex_olmo", Class::AsFile, false),
    ("gemma", Class::Gemma, false),
    ("gemma2", Class::Gemma, false),
    ("gemma3", Class::Gemma, false),
    ("gemma3_text", Class::Gemma, false),
    ("gemma3n", Class::Gemma, false),
    ("gemma3n_text", Class::Gemma, false),
    ("glm", Class::AsFile, false),
    ("glm4", Class::AsFile, false),
    ("glm4_moe", Class::AsFile, false),
    ("gpt2", Class::Gpt2, false),
    ("gpt_bigcode", Class::AsFile, false),
    ("gpt_neo", Class::Gpt2, false),
    ("gpt_neox", Class::GptNeoX, false),
    ("gptj", Class::Gpt2, false),
    ("granite", Class::AsFile, false),
    ("granitemoe", Class::AsFile, false),
    ("granitemoehybrid", Class::AsFile, false),
    ("granitemoeshared", Class::AsFile, false),
    ("hyperclovax", Class::AsFile, true),
    ("internlm2", Class::AsFile, true),
    ("internlm3", Class::AsFile, true),
    ("jais2", Class::Gpt2, false),
    ("jamba", Class::AsFile, true),
    ("mamba", Class::GptNeoX, false),
    ("mamba2", Class::GptNeoX, false),
    ("minicpm3", Class::AsFile, true),
    ("minimax_m2", Class::AsFile, true),
    ("ministral", Class::AsFile, false),
    ("ministral3", Class::AsFile, false),
    ("mistral", Class::AsFile, false),
    ("mixtral", Class::AsFile, false),
    ("mpt", Class::GptNeoX, false),
    ("nemotron", Class::AsFile, true),
    ("olmo", Class::GptNeoX, false),
    ("olmo2", Class::AsFile, false),
    ("olmo3", Class::AsFile, false),
    ("olmoe", Class::GptNeoX, false),
    ("opt", Class::Gpt2, false),
    ("persimmon", Class::AsFile, false),
    ("phi", Class::Gpt2, false),
    ("phi3", Class::AsFile, true),
    ("phimoe", Class::AsFile, true),
    ("qwen2", Class::Qwen2, true),
    ("qwen2_moe", Class::Qwen2, false),
    ("qwen3", Class::Qwen2, false),
    ("qwen3_5", Class::Qwen35, true),
    ("qwen3_5_text", Class::Qwen35, false),
    ("qwen3_moe", Class::Qwen2, false),
    ("qwen3_next", Class::Qwen2, false),
    ("recurrent_gemma", Class::Gemma, false),
    ("stablelm", Class::AsFile, false),
    ("starcoder2", Class::Gpt2, false),
];

impl Class {
    /// The class that `AutoTokenizer` takes for a folder that says `names`. `mentions_byte_level` is true when
    /// the text `"ByteLevel"` stands in its `tokenizer.json`.
    ///
    /// # Errors
    /// When it is one whose tokenizer is not built here, or the folder's own Python code.
    pub fn of_folder(names: &SpecialNames, mentions_byte_level: bool) -> Reasoned<Self> {
        let registered = names.model_type.as_deref().and_then(registered);
        let overruled = registered.is_some_and(|(_, overrules)| overrules);
        let declared = names.declared_class.as_deref().or(names.model_class.as_deref());
        if let Some(declared) = declared
            && !names.has_own_code
        {
            // Llama 3 and its like declare a class that would put spaces where their bytes are.
            if without_fast(declared) == "LlamaTokenizer" && mentions_byte_level && !overruled {
                return Ok(Self::AsFile);
            }
            if let Some((class, overrules)) = registered
                && class.name() != Some(without_fast(declared))
                && !(class == Self::AsFile && is_plain(without_fast(declared)))
            {
                let stands_for_itself = overrules || class == Self::AsFile;
                return if stands_for_itself { Ok(class) } else { Self::named(declared) };
            }
        }
        if names.has_own_code && registered.is_none() && !declared.is_some_and(Self::is_known) {
            return Err("belongs to a tokenizer in Python code of the folder's own (`auto_map` in \
                        tokenizer_config.json), which is not run: remove `auto_map` there where tokenizer.json \
                        makes the same ids"
                .into());
        }
        match declared {
            Some(declared) => Self::named(declared),
            None => Ok(registered.map_or(Self::AsFile, |(class, _)| class)),
        }
    }

    /// The name that folders declare, for those that build tokenizers anew.
    pub fn name(self) -> Option<&'static str> {
        REBUILT.iter().find(|(_, class)| *class == self).map(|(name, _)| *name)
    }

    fn named(name: &str) -> Reasoned<Self> {
        let name = without_fast(name);
        if NOT_BUILT.binary_search(&name).is_ok() {
            return Err(format!(
                "is declared as `{name}`, a class whose tokenizer transformers builds anew and this program \
                 cannot: where tokenizer.json is to be read as it is, set `tokenizer_class` in \
                 tokenizer_config.json to `PreTrainedTokenizerFast`"
            ));
        }
        let rebuilt = REBUILT.iter().find(|(known, _)| *known == name);
        Ok(rebuilt.map_or(Self::AsFile, |(_, class)| *class))
    }

    fn is_known(name: &str) -> bool {
        let name = without_fast(name);
        let rebuilt = REBUILT.iter().any(|(known, _)| *known == name);
        rebuilt || is_plain(name) || NOT_BUILT.binary_search(&name).is_ok()
    }
}

/// Whether transformers takes its class for this `model_type` whatever a folder declares.
pub(super) fn overrules(model_type: &str) -> bool {
    registered(model_type).is_some_and(|(_, overrules)| overrules)
}

fn registered(model_type: &str) -> Option<(Class, bool)> {
    let row = REGISTERED.binary_search_by_key(&model_type, |(model_type, ..)| model_type).ok()?;
    Some((REGISTERED[row].1, REGISTERED[row].2))
}

fn is_plain(name: &str) -> bool {
    ["TokenizersBackend", "PythonBackend", "PreTrainedTokenizer", "BloomTokenizer"].contains(&name)
}

fn without_fast(name: &str) -> &str {
    name.strip_suffix("Fast").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(model_type: &str, declared: Option<&str>, mentions_byte_level: bool) -> Reasoned<Class> {
        let names = SpecialNames {
            model_type: Some(model_type.to_owned()),
            declared_class: declared.map(str::to_owned),
            ..SpecialNames::default()
        };
        Class::of_folder(&names, mentions_byte_level)
    }

    #[test]
    fn tables_are_in_order() {
        assert!(NOT_BUILT.is_sorted());
        assert!(REGISTERED.is_sorted_by_key(|(model_type, ..)| *model_type));
    }

    #[test]
    fn classes_are_those_that_transformers_takes() {
        use Class::*;
        // Asked of `AutoTokenizer.from_pretrained` in transformers 5.24.
        for (model_type, declared, byte_level, expected) in [
            ("llama", None, false, AsFile),
            ("llama", Some("LlamaTokenizerFast"), false, Llama),
            ("llama", Some("LlamaTokenizer"), true, AsFile),
            ("llama", Some("GPT2TokenizerFast"), true, Gpt2),
            ("llama", Some("SomebodysTokenizer"), true, AsFile),
            ("llama", Some("PreTrainedTokenizer"), true, AsFile),
            ("qwen2", None, true, Qwen2),
            ("qwen2", Some("PreTrainedTokenizerFast"), true, Qwen2),
            ("qwen2", Some("LlamaTokenizerFast"), true, Qwen2),
            ("qwen3", None, true, Qwen2),
            ("qwen3", Some("PreTrainedTokenizerFast"), true, AsFile),
            ("qwen3", Some("LlamaTokenizerFast"), true, AsFile),
            ("qwen3", Some("GemmaTokenizer"), false, Gemma),
            ("mistral", Some("LlamaTokenizer"), false, AsFile),
            ("phi3", Some("LlamaTokenizer"), false, AsFile),
            ("gemma2", Some("PreTrainedTokenizerFast"), false, AsFile),
            ("gemma2", Some("GemmaTokenizerFast"), false, Gemma),
            ("gpt_neox", None, true, GptNeoX),
        ] {
            assert_eq!(class(model_type, declared, byte_level), Ok(expected), "{model_type} {declared:?}");
        }
    }

    #[test]
    fn classes_that_are_not_built_are_refused() {
        assert!(class("llama", Some("T5TokenizerFast"), false).unwrap_err().contains("`T5Tokenizer`"));
        let names = SpecialNames {
            has_own_code: true,
            declared_class: Some("InternLM2Tokenizer".into()),
            ..SpecialNames::default()
        };
        assert!(Class::of_folder(&names, false).unwrap_err().contains("`auto_map`"));
        // Of a type that transformers knows, the code is not run.
        for (model_type, declared, expected) in [
            ("qwen3", Some("InternLM2Tokenizer"), Class::AsFile),
            ("qwen3", None, Class::Qwen2),
            ("mistral", Some("InternLM2Tokenizer"), Class::AsFile),
        ] {
            let names = SpecialNames {
                has_own_code: true,
                model_type: Some(model_type.into()),
                declared_class: declared.map(str::to_owned),
                ..SpecialNames::default()
            };
            assert_eq!(Class::of_folder(&names, false), Ok(expected), "{model_type} {declared:?}");
        }
    }
}
