//! The calls of the Open Inference Protocol that are not hot: answered from the routing table, through tonic.

use crate::config::ModelControl;
use crate::identify::identify;
use crate::load::LoadParameters;
use crate::settings::LogValue;
use crate::shard::Shard;
use crate::shm::RegionStatus;
use crate::table::{ModelVersion, Table};
use policy::{Failure, ModelName, VersionState};
use proto::budget::Permit;
use proto::inference::grpc_inference_service_server::GrpcInferenceService;
use proto::inference::*;
use proto::status::to_tonic;
use proto::{model_config, statistics};
use std::pin::Pin;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

/// What `ServerMetadata` lists: what works, since clients choose by it.
const EXTENSIONS: [&str; 11] = [
    "classification",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "system_shared_memory",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
];
/// Platform string of an ONNX model, as Triton spells it.
const PLATFORM: &str = "onnxruntime_onnx";

/// Answers from the table, and asks workers over the lines of `0`.
#[derive(Clone)]
pub(crate) struct Oip(pub(crate) Shard);

type Answer<T> = Result<Response<T>, Status>;

fn unsupported<T>(what: &str, why: &str) -> Answer<T> {
    Err(to_tonic(&Failure::Unsupported { what: what.to_owned(), why: why.to_owned() }))
}

impl Oip {
    /// The version asked for, ready or not; without a version the highest ready one, else the highest.
    fn known(table: &Table, name: &str, version: &str) -> Result<Arc<ModelVersion>, Failure> {
        match table.resolve(name, version) {
            Ok(found) => Ok(found.clone()),
            Err(failure @ (Failure::NotReady { .. } | Failure::NoVersion { .. })) => {
                let model = table.models.get(name);
                let number = model.map(|m| m.number(name, version)).transpose()?.flatten();
                let versions = model.map(|m| &m.versions);
                let found = versions.and_then(|v| number.map_or_else(|| v.values().next_back(), |n| v.get(&n)));
                found.filter(|v| v.record.state == VersionState::Valid).cloned().ok_or(failure)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Can it be asked? A model that is asleep can: who looks first would else never wake it.
    ///
    /// # Errors
    /// When there is no such model or version.
    pub(crate) fn ready(&self, model: &str, version: &str) -> Result<bool, Failure> {
        match self.0.core.table.load().resolve(model, version) {
            Ok(_) => Ok(true),
            Err(Failure::NotReady { .. } | Failure::NoVersion { .. } | Failure::NoTable { .. }) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// The versions whose counters are asked for: one, all of a model, or all there are, in the order of names and numbers.
    fn counted(table: &Table, name: &str, version: &str) -> Result<Vec<Arc<ModelVersion>>, Failure> {
        if !version.is_empty() {
            return Ok(vec![Self::known(table, name, version)?]);
        }
        if !name.is_empty() {
            Self::known(table, name, version)?;
        }
        let mut models: Vec<_> = table.models.iter().filter(|(model, _)| name.is_empty() || *model == name).collect();
        models.sort_by_key(|(model, _)| *model);
        Ok(models.into_iter().flat_map(|(_, model)| model.versions.values().filter(|v| v.can_be_asked()).cloned()).collect())
    }

    /// Whose call it is.
    fn tenant<T>(&self, call: &Request<T>) -> Arc<str> {
        let core = &self.0.core;
        identify(core.config.trust_tenant, &core.default_tenant, &call.metadata().clone().into_headers()).tenant
    }

    /// Loads a model; `held` is for the bytes of the request.
    ///
    /// # Errors
    /// When clients may not, and why it cannot be served.
    pub(crate) async fn load(&self, request: RepositoryModelLoadRequest, held: Option<Permit>) -> Result<(), Failure> {
        self.controllable(&request.repository_name)?;
        let model = ModelName::new(request.model_name)?;
        self.0.load_model(model, LoadParameters { held, ..LoadParameters::read(request.parameters)? }).await
    }

    fn controllable(&self, repository: &str) -> Result<(), Failure> {
        if !repository.is_empty() {
            let why = "Sluice has one repository; leave repository_name empty".to_owned();
            return Err(Failure::Unsupported { what: format!("repository {repository:?}"), why });
        }
        match self.0.core.config.model_control {
            ModelControl::Explicit => Ok(()),
            ModelControl::None => {
                Err(Failure::Refused { what: "model control is off: start the gateway with --model-control explicit".to_owned() })
            }
        }
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Oip {
    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Answer<ServerLiveResponse> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Answer<ServerReadyResponse> {
        Ok(Response::new(ServerReadyResponse { ready: self.0.core.is_ready() }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Answer<ModelReadyResponse> {
        let request = request.into_inner();
        // Triton answers false for a model that is not there, too.
        let ready = self.ready(&request.name, &request.version).unwrap_or(false);
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(&self, _: Request<ServerMetadataRequest>) -> Answer<ServerMetadataResponse> {
        Ok(Response::new(ServerMetadataResponse {
            name: "sluice".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: EXTENSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn model_metadata(&self, request: Request<ModelMetadataRequest>) -> Answer<ModelMetadataResponse> {
        let request = request.into_inner();
        let table = self.0.core.table.load_full();
        let version = Self::known(&table, &request.name, &request.version).map_err(|f| to_tonic(&f))?;
        let tensor = |t: &policy::TensorSpec| model_metadata_response::TensorMetadata {
            name: t.name.clone(),
            datatype: t.datatype.to_string(),
            shape: t.shape.clone(),
        };
        let versions = table.models.get(&request.name).into_iter().flat_map(|m| m.versions.values());
        Ok(Response::new(ModelMetadataResponse {
            name: request.name.clone(),
            versions: versions.filter(|v| v.can_be_asked()).map(|v| v.record.version.to_string()).collect(),
            platform: PLATFORM.to_owned(),
            inputs: version.signature().inputs.iter().map(tensor).collect(),
            outputs: version.signature().outputs.iter().map(tensor).collect(),
            properties: Default::default(),
        }))
    }

    async fn model_infer(&self, _: Request<ModelInferRequest>) -> Answer<ModelInferResponse> {
        Err(Status::internal("served from frames, never here"))
    }

    type ModelStreamInferStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<ModelStreamInferResponse, Status>> + Send>>;

    async fn model_stream_infer(&self, _: Request<Streaming<ModelInferRequest>>) -> Answer<Self::ModelStreamInferStream> {
        Err(Status::internal("served from frames, never here"))
    }

    async fn repository_index(&self, request: Request<RepositoryIndexRequest>) -> Answer<RepositoryIndexResponse> {
        let only_ready = request.into_inner().ready;
        let table = self.0.core.table.load_full();
        let mut models = Vec::new();
        for (name, model) in &table.models {
            for version in model.versions.values() {
                let (state, reason) = match table.resolve(name, &version.record.version.to_string()) {
                    Ok(_) if version.is_ready() => ("READY", String::new()),
                    Ok(_) => ("READY", "asleep: the next request loads it".to_owned()),
                    Err(Failure::NotReady { reason, .. }) if model.is_loading(version) => ("LOADING", reason),
                    Err(Failure::NotReady { reason, .. }) => ("UNAVAILABLE", reason),
                    Err(failure) => ("UNAVAILABLE", failure.to_string()),
                };
                models.push(repository_index_response::ModelIndex {
                    name: name.clone(),
                    version: version.record.version.to_string(),
                    state: state.to_owned(),
                    reason,
                });
            }
        }
        models.retain(|m| !only_ready || m.state == "READY");
        models.sort_by(|a, b| (&a.name, a.version.len(), &a.version).cmp(&(&b.name, b.version.len(), &b.version)));
        Ok(Response::new(RepositoryIndexResponse { models }))
    }

    async fn repository_model_load(&self, request: Request<RepositoryModelLoadRequest>) -> Answer<RepositoryModelLoadResponse> {
        self.load(request.into_inner(), None).await.map_err(|f| to_tonic(&f))?;
        Ok(Response::new(RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(&self, request: Request<RepositoryModelUnloadRequest>) -> Answer<RepositoryModelUnloadResponse> {
        let request = request.into_inner();
        self.controllable(&request.repository_name).map_err(|f| to_tonic(&f))?;
        let model = ModelName::new(request.model_name).map_err(|e| to_tonic(&e.into()))?;
        self.0.unload_model(model).await.map_err(|f| to_tonic(&f))?;
        Ok(Response::new(RepositoryModelUnloadResponse {}))
    }

    async fn model_config(&self, request: Request<ModelConfigRequest>) -> Answer<ModelConfigResponse> {
        let request = request.into_inner();
        let table = self.0.core.table.load_full();
        let version = Self::known(&table, &request.name, &request.version).map_err(|f| to_tonic(&f))?;
        let config = version.record.config.as_ref().map(model_config::from_json).transpose();
        let config = config.map_err(|error| {
            tracing::error!(model = %request.name, %error, "the registry holds a configuration that cannot be read");
            Status::internal("the model's configuration cannot be read")
        })?;
        Ok(Response::new(ModelConfigResponse { config }))
    }

    async fn model_statistics(&self, request: Request<ModelStatisticsRequest>) -> Answer<ModelStatisticsResponse> {
        let request = request.into_inner();
        let table = self.0.core.table.load_full();
        let versions = Self::counted(&table, &request.name, &request.version).map_err(|f| to_tonic(&f))?;
        self.0.collect_statistics().await;
        let one = |version: &ModelVersion| {
            let (model, number) = (&version.record.model, version.record.version);
            statistics::to_message(model.as_str(), &number.to_string(), &self.0.core.totals.of(model, number))
        };
        Ok(Response::new(ModelStatisticsResponse { model_stats: versions.iter().map(|v| one(v)).collect() }))
    }

    async fn system_shared_memory_status(
        &self,
        request: Request<SystemSharedMemoryStatusRequest>,
    ) -> Answer<SystemSharedMemoryStatusResponse> {
        let tenant = self.tenant(&request);
        let regions = self.0.core.regions.status(&tenant, &request.into_inner().name).map_err(|f| to_tonic(&f))?;
        let region = |r: RegionStatus| {
            let RegionStatus { name, key, offset, byte_size } = r;
            (name.clone(), system_shared_memory_status_response::RegionStatus { name, key, offset, byte_size })
        };
        Ok(Response::new(SystemSharedMemoryStatusResponse { regions: regions.into_iter().map(region).collect() }))
    }

    async fn system_shared_memory_register(
        &self,
        request: Request<SystemSharedMemoryRegisterRequest>,
    ) -> Answer<SystemSharedMemoryRegisterResponse> {
        let tenant = self.tenant(&request);
        let SystemSharedMemoryRegisterRequest { name, key, offset, byte_size } = request.into_inner();
        let region = RegionStatus { name, key, offset, byte_size };
        self.0.core.regions.register(&tenant, region).map_err(|f| to_tonic(&f))?;
        Ok(Response::new(SystemSharedMemoryRegisterResponse {}))
    }

    async fn system_shared_memory_unregister(
        &self,
        request: Request<SystemSharedMemoryUnregisterRequest>,
    ) -> Answer<SystemSharedMemoryUnregisterResponse> {
        let tenant = self.tenant(&request);
        self.0.core.regions.unregister(&tenant, &request.into_inner().name);
        Ok(Response::new(SystemSharedMemoryUnregisterResponse {}))
    }

    async fn cuda_shared_memory_status(&self, _: Request<CudaSharedMemoryStatusRequest>) -> Answer<CudaSharedMemoryStatusResponse> {
        Ok(Response::new(CudaSharedMemoryStatusResponse::default()))
    }

    async fn cuda_shared_memory_register(&self, _: Request<CudaSharedMemoryRegisterRequest>) -> Answer<CudaSharedMemoryRegisterResponse> {
        unsupported("CUDA shared memory", "a gateway is not on the GPU's host; send the tensor bytes in the request")
    }

    async fn cuda_shared_memory_unregister(
        &self,
        _: Request<CudaSharedMemoryUnregisterRequest>,
    ) -> Answer<CudaSharedMemoryUnregisterResponse> {
        Ok(Response::new(CudaSharedMemoryUnregisterResponse {}))
    }

    async fn trace_setting(&self, request: Request<TraceSettingRequest>) -> Answer<TraceSettingResponse> {
        let TraceSettingRequest { settings, model_name } = request.into_inner();
        let changes = settings.into_iter().map(|(name, setting)| (name, setting.value)).collect();
        let known = |model: &str| self.0.core.table.load().models.contains_key(model);
        let now = self.0.core.settings.trace(&model_name, &changes, known).map_err(|f| to_tonic(&f))?;
        let settings = now.into_iter().map(|(name, value)| (name, trace_setting_response::SettingValue { value })).collect();
        Ok(Response::new(TraceSettingResponse { settings }))
    }

    async fn log_settings(&self, request: Request<LogSettingsRequest>) -> Answer<LogSettingsResponse> {
        use log_settings_request::setting_value::ParameterChoice as Asked;
        use log_settings_response::setting_value::ParameterChoice as Now;
        let change = |(name, setting): (String, log_settings_request::SettingValue)| {
            let value = match setting.parameter_choice {
                Some(Asked::BoolParam(flag)) => LogValue::Bool(flag),
                Some(Asked::Uint32Param(number)) => LogValue::U32(number),
                Some(Asked::StringParam(text)) => LogValue::String(text),
                None => return Err(Failure::Parameter { name, what: "has no value".to_owned() }),
            };
            Ok((name, value))
        };
        let changes = request.into_inner().settings.into_iter().map(change).collect::<Result<_, _>>().map_err(|f| to_tonic(&f))?;
        let now = self.0.core.settings.log(&changes).map_err(|f| to_tonic(&f))?;
        let setting = |(name, value)| {
            let choice = match value {
                LogValue::Bool(flag) => Now::BoolParam(flag),
                LogValue::U32(number) => Now::Uint32Param(number),
                LogValue::String(text) => Now::StringParam(text),
            };
            (name, log_settings_response::SettingValue { parameter_choice: Some(choice) })
        };
        Ok(Response::new(LogSettingsResponse { settings: now.into_iter().map(setting).collect() }))
    }
}
