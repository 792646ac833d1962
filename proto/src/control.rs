//! What a gateway asks of a worker besides inference (`sluice.v1.Worker`): paths, messages, and the types of the call seam.

use crate::call::{Offer, ReplicaStatistics};
use crate::chain::Chain;
use crate::{sluice as pb, statistics};
use policy::{Failure, ModelName, VariantId, Version};
use prost::Message as _;

/// Path of the call for counters.
pub const STATISTICS_PATH: &str = "/sluice.v1.Worker/Statistics";
/// Path of the call to look at a model anew.
pub const OFFER_PATH: &str = "/sluice.v1.Worker/Offer";

/// Writes the request for counters.
pub fn write_statistics_request() -> Chain {
    Chain::default()
}

/// Writes counters.
pub fn write_statistics(replicas: &[ReplicaStatistics]) -> Chain {
    let replica = |r: &ReplicaStatistics| pb::ReplicaStatistics {
        variant: r.variant.to_string(),
        load: r.load,
        generation: r.generation,
        statistics: Some(statistics::to_message(r.variant.model.as_str(), &r.variant.version.to_string(), &r.statistics)),
    };
    encode(&pb::StatisticsResponse { replicas: replicas.iter().map(replica).collect() })
}

/// Reads counters.
///
/// # Errors
/// [`Failure::BadReply`] for what is not the message.
pub fn read_statistics(message: Chain) -> Result<Vec<ReplicaStatistics>, Failure> {
    let response: pb::StatisticsResponse = reply(message)?;
    let replica = |r: pb::ReplicaStatistics| {
        let variant = VariantId::parse(&r.variant).map_err(|e| Failure::BadReply { what: e.to_string() })?;
        let statistics = r.statistics.as_ref().map(statistics::from_message).unwrap_or_default();
        Ok(ReplicaStatistics { variant, load: r.load, generation: r.generation, statistics })
    };
    response.replicas.into_iter().map(replica).collect()
}

/// Writes an offer.
pub fn write_offer(offer: Offer) -> Chain {
    let files = offer.files.into_iter().map(|(path, content)| pb::OfferFile { path, content: content.into_bytes() });
    encode(&pb::OfferRequest { model: offer.model.to_string(), config: offer.config.unwrap_or_default(), files: files.collect() })
}

/// Reads an offer.
///
/// # Errors
/// [`Failure::Malformed`] for what is not the message, and for a name that is no model's.
pub fn read_offer(message: Chain) -> Result<Offer, Failure> {
    let request = pb::OfferRequest::decode(message).map_err(|e| Failure::Malformed { what: e.to_string() })?;
    Ok(Offer {
        model: ModelName::new(request.model)?,
        config: Some(request.config).filter(|config| !config.is_empty()),
        files: request.files.into_iter().map(|file| (file.path, Chain::from(file.content))).collect(),
    })
}

/// Writes the versions that can be served.
pub fn write_offered(versions: &[Version]) -> Chain {
    encode(&pb::OfferResponse { versions: versions.iter().map(|v| u64::from(*v)).collect() })
}

/// Reads the versions that can be served.
///
/// # Errors
/// [`Failure::BadReply`] for what is not the message.
pub fn read_offered(message: Chain) -> Result<Vec<Version>, Failure> {
    let response: pb::OfferResponse = reply(message)?;
    let version = |v: u64| Version::try_from(v).map_err(|e| Failure::BadReply { what: e.to_string() });
    response.versions.into_iter().map(version).collect()
}

fn encode(message: &impl prost::Message) -> Chain {
    Chain::from(message.encode_to_vec())
}

fn reply<M: prost::Message + Default>(message: Chain) -> Result<M, Failure> {
    M::decode(message).map_err(|e| Failure::BadReply { what: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_survives_the_wire() {
        let offer = Offer {
            model: ModelName::new("m").unwrap(),
            config: Some("{}".to_owned()),
            files: vec![("1/model.onnx".to_owned(), Chain::from(vec![0, 255, 7]))],
        };
        let back = read_offer(write_offer(offer)).unwrap();
        assert_eq!((back.model.as_str(), back.config.as_deref()), ("m", Some("{}")));
        let (path, content) = back.files.into_iter().next().unwrap();
        assert_eq!((path.as_str(), &content.into_bytes()[..]), ("1/model.onnx", &[0, 255, 7][..]));
        let versions = [1, 9].map(|v| Version::try_from(v).unwrap());
        assert_eq!(read_offered(write_offered(&versions)), Ok(versions.to_vec()));
        assert!(read_offer(Chain::from(vec![0xff])).is_err());
    }

    #[test]
    fn counters_of_each_load_survive_the_wire() {
        let one = ReplicaStatistics {
            variant: VariantId::parse("m:1:fp32@ort").unwrap(),
            load: 3,
            generation: 4,
            statistics: policy::statistics::Statistics { inference_count: 5, ..Default::default() },
        };
        assert_eq!(read_statistics(write_statistics(std::slice::from_ref(&one))), Ok(vec![one]));
    }
}
