//! The tensor parameters that say: these bytes lie in a region of shared memory, not in the message.

use crate::check::limits;
use crate::{Failure, Param, Parameters};

/// Where a tensor's bytes lie, in a region that the client registered before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedMemory {
    /// The region's name.
    pub region: String,
    /// First byte, counted from the start of the region.
    pub offset: u64,
    /// Bytes of an input, or room for an output.
    pub byte_size: u64,
}

impl SharedMemory {
    /// Tensor parameter for the region's name; a tensor that has it lies in shared memory.
    pub const REGION: &'static str = "shared_memory_region";
    /// Tensor parameter for the number of bytes.
    pub const BYTE_SIZE: &'static str = "shared_memory_byte_size";
    /// Tensor parameter for the first byte; 0 when left out.
    pub const OFFSET: &'static str = "shared_memory_offset";

    /// Does a tensor with these parameters lie in shared memory, rightly described or not?
    pub fn is_named_in(parameters: &Parameters) -> bool {
        parameters.iter().any(|(name, _)| name == Self::REGION)
    }

    /// Takes the three parameters of `tensor` out; `None`, and nothing taken, when no region is named.
    ///
    /// # Errors
    /// [`Failure::Parameter`] when one has the wrong type or the byte size is missing.
    pub fn take(tensor: &str, parameters: &mut Parameters) -> Result<Option<Self>, Failure> {
        if !Self::is_named_in(parameters) {
            return Ok(None);
        }
        let region = match remove(parameters, Self::REGION) {
            Some(Param::String(region)) => region,
            other => return Err(wrong(Self::REGION, tensor, "a string", other.as_ref())),
        };
        let mut bytes = |name, default: Option<u64>| {
            let value = remove(parameters, name);
            let number = value.as_ref().map_or(default, whole_number);
            number.ok_or_else(|| wrong(name, tensor, "a whole number of bytes", value.as_ref()))
        };
        let byte_size = bytes(Self::BYTE_SIZE, None)?;
        let offset = bytes(Self::OFFSET, Some(0))?;
        Ok(Some(Self { region, offset, byte_size }))
    }

    /// As tensor parameters; the offset only where it is not 0.
    pub fn into_parameters(self) -> Parameters {
        let count = |n: u64| Param::Int64(i64::try_from(n).unwrap_or(i64::MAX));
        let mut parameters =
            vec![(Self::REGION.to_owned(), Param::String(self.region)), (Self::BYTE_SIZE.to_owned(), count(self.byte_size))];
        if self.offset > 0 {
            parameters.push((Self::OFFSET.to_owned(), count(self.offset)));
        }
        parameters
    }
}

/// Takes the parameter `name` out of a list.
pub(crate) fn remove(parameters: &mut Parameters, name: &str) -> Option<Param> {
    let index = parameters.iter().position(|(n, _)| n == name)?;
    Some(parameters.remove(index).1)
}

/// The value of an integer parameter that is not negative.
pub(crate) fn whole_number(value: &Param) -> Option<u64> {
    match value {
        Param::Int64(n) => u64::try_from(*n).ok(),
        Param::Uint64(n) => Some(*n),
        Param::Bool(_) | Param::Double(_) | Param::String(_) => None,
    }
}

/// The failure for the parameter `name` of `tensor` that is not `expected`.
pub(crate) fn wrong(name: &str, tensor: &str, expected: &str, got: Option<&Param>) -> Failure {
    let got = match got {
        None => "nothing".to_owned(),
        Some(Param::Bool(v)) => v.to_string(),
        Some(Param::Int64(v)) => v.to_string(),
        Some(Param::Uint64(v)) => v.to_string(),
        Some(Param::Double(v)) => format!("{v:?}"),
        Some(Param::String(v)) => format!("{:?}", v.chars().take(32).collect::<String>()),
    };
    let tensor: String = tensor.chars().take(limits::NAME_BYTES_MAX).collect();
    Failure::Parameter { name: name.to_owned(), what: format!("tensor `{tensor}`: expected {expected}, got {got}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(list: &[(&str, Param)]) -> Parameters {
        list.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    #[test]
    fn the_three_parameters_are_taken_and_others_stay() {
        let region = ("shared_memory_region", Param::String("r".into()));
        let own = ("own", Param::Bool(true));
        let mut all = named(&[
            own.clone(),
            ("shared_memory_offset", Param::Uint64(8)),
            region.clone(),
            ("shared_memory_byte_size", Param::Int64(64)),
        ]);
        let whole = SharedMemory { region: "r".into(), offset: 8, byte_size: 64 };
        assert_eq!(SharedMemory::take("t", &mut all), Ok(Some(whole.clone())));
        assert_eq!(all, named(std::slice::from_ref(&own)));
        let mut again = whole.clone().into_parameters();
        assert_eq!(SharedMemory::take("t", &mut again), Ok(Some(whole)));

        let mut short = named(&[region, ("shared_memory_byte_size", Param::Int64(0))]);
        assert_eq!(SharedMemory::take("t", &mut short), Ok(Some(SharedMemory { region: "r".into(), offset: 0, byte_size: 0 })));
        let mut none = named(&[own.clone(), ("shared_memory_offset", Param::Int64(1))]);
        assert_eq!(SharedMemory::take("t", &mut none), Ok(None));
        assert_eq!(none.len(), 2, "without a region they are a caller's own parameters");
    }

    #[test]
    fn wrong_types_and_a_missing_size_are_named() {
        let region = ("shared_memory_region", Param::String("r".into()));
        let size = ("shared_memory_byte_size", Param::Int64(4));
        let refuses = |list: &[(&str, Param)], needle: &str| {
            let failure = SharedMemory::take("t", &mut named(list)).unwrap_err().to_string();
            assert!(failure.contains(needle) && failure.contains("tensor `t`"), "{failure}");
        };
        refuses(&[("shared_memory_region", Param::Int64(1)), size.clone()], "`shared_memory_region`");
        refuses(std::slice::from_ref(&region), "`shared_memory_byte_size`: tensor `t`: expected a whole number of bytes, got nothing");
        refuses(&[region.clone(), ("shared_memory_byte_size", Param::Int64(-5))], "got -5");
        refuses(&[region.clone(), ("shared_memory_byte_size", Param::String("4".into()))], "got \"4\"");
        refuses(
            &[region, size, ("shared_memory_offset", Param::Double(1.0))],
            "`shared_memory_offset`: tensor `t`: expected a whole number of bytes, got 1.0",
        );
    }
}
