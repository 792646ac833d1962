//! The JSON part of a request as serde reads it. Parameter values and tensor data stay the text they are, lists keep no more
//! than their limit, and members nobody knows are skipped: however deep, by serde_json's loop, not by recursion.

use policy::check::limits;
use policy::{Failure, Param, Parameters};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

#[derive(Deserialize)]
pub(super) struct Body<'a> {
    #[serde(borrow)]
    pub(super) id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) parameters: Option<ParameterList<'a>>,
    #[serde(borrow)]
    pub(super) inputs: Option<List<Object<Input<'a>>, { limits::TENSORS_MAX }>>,
    #[serde(borrow)]
    pub(super) outputs: Option<List<Object<Output<'a>>, { limits::TENSORS_MAX }>>,
}

#[derive(Deserialize)]
pub(super) struct Input<'a> {
    #[serde(borrow)]
    pub(super) name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) datatype: Option<Text<'a>>,
    pub(super) shape: Option<List<i64, { limits::RANK_MAX }>>,
    #[serde(borrow)]
    pub(super) parameters: Option<ParameterList<'a>>,
    #[serde(borrow)]
    pub(super) data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
pub(super) struct Output<'a> {
    #[serde(borrow)]
    pub(super) name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) parameters: Option<ParameterList<'a>>,
}

/// A string, borrowed where it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

impl Text<'_> {
    /// A name, which must not be longer than names may be.
    pub(super) fn into_name(self, of: &str) -> Result<String, Failure> {
        limit(|| format!("bytes of the name of {of}"), self.0.len(), limits::NAME_BYTES_MAX)?;
        Ok(self.0.into_owned())
    }
}

/// Reads the JSON part.
pub(super) fn parse(part: &[u8]) -> Result<Body<'_>, Failure> {
    let text = std::str::from_utf8(part)
        .map_err(|error| Failure::Malformed { what: format!("the JSON is not UTF-8 behind byte {}", error.valid_up_to()) })?;
    serde_json::from_str::<Object<Body<'_>>>(text).map(|object| object.0).map_err(|error| explain(text, &error))
}

/// The error, cut where it repeats a client's text, and what to do about a number that JSON lacks.
fn explain(text: &str, error: &serde_json::Error) -> Failure {
    const BYTES_MAX: usize = 200;
    let mut what = format!("the JSON cannot be read: {error}");
    if what.len() > BYTES_MAX {
        let start: String = what.chars().take(BYTES_MAX / 2).collect();
        what = format!("{start}... at line {} column {}", error.line(), error.column());
    }
    let word = word_at(text, error).unwrap_or_default();
    if ["nan", "inf", "infinity"].iter().any(|name| word.eq_ignore_ascii_case(name.as_bytes())) {
        what.push_str(" (JSON has no NaN or Infinity: send such values as binary data, with binary_data_size)");
    }
    Failure::Malformed { what }
}

/// The letters around the place of an error.
fn word_at<'a>(text: &'a str, error: &serde_json::Error) -> Option<&'a [u8]> {
    let line = text.split('\n').nth(error.line().checked_sub(1)?)?.as_bytes();
    let (before, after) = line.split_at_checked(error.column().checked_sub(1)?)?;
    let ahead = before.iter().rev().take_while(|byte| byte.is_ascii_alphabetic()).count();
    let behind = after.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    line.get(before.len().saturating_sub(ahead)..before.len().saturating_add(behind))
}

/// `got` of something, of which at most `most` are allowed.
pub(super) fn limit(what: impl FnOnce() -> String, got: usize, most: usize) -> Result<(), Failure> {
    if got <= most { Ok(()) } else { Err(Failure::Limit { what: what(), got: got as u64, limit: most as u64 }) }
}

/// A JSON object. What serde derives also takes an array of the members' values; the protocol does not.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(Members(PhantomData)).map(Self)
    }
}

/// An array: its first `MAX` items, and how many there are.
pub(super) struct List<T, const MAX: usize> {
    items: Vec<T>,
    count: usize,
}

impl<T, const MAX: usize> List<T, MAX> {
    /// The items, if there are not too many.
    pub(super) fn into_items(self, what: impl FnOnce() -> String) -> Result<Vec<T>, Failure> {
        limit(what, self.count, MAX)?;
        Ok(self.items)
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Items<T, MAX> {
            type Value = List<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while items.len() < MAX {
                    let Some(item) = seq.next_element()? else { break };
                    items.push(item);
                }
                let mut count = items.len();
                while items.len() == MAX && seq.next_element::<IgnoredAny>()?.is_some() {
                    count = count.saturating_add(1);
                }
                Ok(List { items, count })
            }
        }
        deserializer.deserialize_seq(Items(PhantomData))
    }
}

/// A `parameters` object: its first members with their values as text, and how many there are.
pub(super) struct ParameterList<'a> {
    members: Vec<(Text<'a>, &'a RawValue)>,
    count: usize,
}

impl ParameterList<'_> {
    /// The parameters of `of`, which a message may name.
    pub(super) fn into_parameters(self, of: &str) -> Result<Parameters, Failure> {
        limit(|| format!("number of parameters of {of}"), self.count, limits::PARAMETERS_MAX)?;
        let mut parameters = Parameters::with_capacity(self.members.len());
        for (name, value) in self.members {
            let name = name.into_name(&format!("a parameter of {of}"))?;
            let value = parameter(value.get()).map_err(|what| Failure::Parameter { name: name.clone(), what })?;
            if parameters.iter().any(|(other, _)| *other == name) {
                return Err(Failure::Parameter { name, what: "appears twice".to_owned() });
            }
            parameters.push((name, value));
        }
        Ok(parameters)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for ParameterList<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = ParameterList<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of parameters")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while members.len() < limits::PARAMETERS_MAX {
                    let Some(member) = map.next_entry()? else { break };
                    members.push(member);
                }
                let mut count = members.len();
                while members.len() == limits::PARAMETERS_MAX && map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    count = count.saturating_add(1);
                }
                Ok(ParameterList { members, count })
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// A parameter's value from its well-formed JSON text.
fn parameter(text: &str) -> Result<Param, String> {
    let expected = |got: &str| Err(format!("expected a boolean, a number or a string, got {got}"));
    match text.as_bytes().first() {
        Some(b't' | b'f') => Ok(Param::Bool(text == "true")),
        Some(b'"') => serde_json::from_str(text).map(Param::String).map_err(|error| format!("the string cannot be read: {error}")),
        Some(b'n') => expected("null"),
        Some(b'[') => expected("an array"),
        Some(b'{') => expected("an object"),
        _ => number(text).ok_or_else(|| format!("number {} does not fit 64 bits", shown(text))),
    }
}

fn number(text: &str) -> Option<Param> {
    if text.contains(['.', 'e', 'E']) {
        return text.parse().ok().filter(|value: &f64| value.is_finite()).map(Param::Double);
    }
    text.parse().map(Param::Int64).or_else(|_| text.parse().map(Param::Uint64)).ok()
}

/// A client's text as a message repeats it: the beginning.
pub(super) fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 40;
    let mut start: String = text.chars().take(CHARS_MAX).collect();
    if start.len() < text.len() {
        start.push_str("...");
    }
    start
}
