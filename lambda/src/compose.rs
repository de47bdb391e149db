//! Settings to components, and what the two programs share: a runtime, the log, one blocking call an invocation. The one
//! place of this package that reads the clock, chance and the environment.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anabranch_aws::dynamo::histories::{DynamoState, StateParts, StateSettings};
use anabranch_aws::kinesis::identity;
use anabranch_aws::sdk::{AwsSettings, Connection};
use anabranch_models::{Kernels, Model};
use anabranch_stores::backoff::Patience;
use anabranch_stores::lake::{ObjectStore, S3Options, StoreOptions, open_store};
use anabranch_stores::registry::ModelRegistry;
use anabranch_stream::Clock;
use anabranch_stream::models::ModelSource;
use anyhow::Context as _;
use lambda_runtime::{LambdaEvent, service_fn};
use serde::{Deserialize, Serialize};

use crate::init_error::{self, RUNTIME_API};
use crate::log;
use crate::models::Models;
use crate::report::Metrics;
use crate::run::{ChainForm, Function, InvocationError, ScratchPool};
use crate::settings::Settings;
use crate::stream::Handled;

/// Threads of the runtime: they wait for the network; the invocation has a thread of its own.
const RUNTIME_THREADS: usize = 2;

/// What a program makes its handler of.
#[derive(Debug)]
pub struct Composed {
    /// The settings.
    pub settings: Settings,
    /// The way to AWS.
    pub connection: Connection,
    /// How long a call tries.
    pub patience: Patience,
    /// What all functions work with.
    pub function: Function,
    /// The same state as the function's, with the outbox in it.
    pub state: Arc<DynamoState>,
    /// The model to begin with.
    pub model: Arc<Model>,
    /// What retries' jitter comes from.
    pub seed: u64,
}

/// What an invocation has beside its event.
#[derive(Clone, Debug)]
pub struct Invoked {
    /// The model of this invocation.
    pub model: Arc<Model>,
    /// When Lambda ends it, milliseconds since 1970.
    pub deadline_ms: i64,
}

/// A function as the programs run it.
pub trait Handler<E>: Send + Sync + 'static {
    /// The answer.
    type Response: Serialize + Send;
    /// What was done.
    type Report: Metrics;

    /// One invocation.
    fn handle(&self, event: &E, with: &Invoked) -> Result<Handled<Self::Response, Self::Report>, InvocationError>;
}

/// The operating system's clocks.
#[derive(Debug)]
struct SystemClock {
    started: Instant,
}

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
    }

    fn monotonic_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }
}

/// Everything that an invocation needs, the model mapped and checked.
struct Ready<H> {
    runtime: tokio::runtime::Runtime,
    models: Arc<Models>,
    handler: Arc<H>,
    clock: Arc<SystemClock>,
    /// Namespace and stream of the metrics.
    metrics: (String, String),
}

/// A name that no other process has: the log stream's, which is one of an execution environment. A process that follows
/// another in the same environment goes on with its lease.
pub fn name_of_process(composed: &Composed) -> String {
    std::env::var("AWS_LAMBDA_LOG_STREAM_NAME").unwrap_or_else(|_| format!("lambda-{:016x}", composed.seed))
}

/// Composes, loads the model, and answers invocations until Lambda ends the process. Without a model no invocation is
/// taken: Lambda is told why the function does not start.
pub fn serve<E, H>(make: impl FnOnce(Composed) -> anyhow::Result<H>) -> anyhow::Result<()>
where
    E: for<'de> Deserialize<'de> + Send + Sync + Debug + 'static,
    H: Handler<E>,
{
    let clock = Arc::new(SystemClock { started: Instant::now() });
    let settings = Settings::load(std::env::vars());
    log::init(&settings.as_ref().map(|settings| settings.log.clone()).unwrap_or_default());
    match settings.map_err(anyhow::Error::from).and_then(|settings| prepare(settings, clock, make)) {
        Ok(ready) => answer(ready),
        Err(reason) => {
            let error = format!("{reason:#}");
            tracing::error!(error, "the function does not start");
            if let Some(Err(error)) = std::env::var(RUNTIME_API).ok().map(|api| init_error::report(&api, &error)) {
                tracing::warn!(%error, "the reason cannot be told to Lambda");
            }
            Err(reason)
        }
    }
}

fn prepare<H>(
    settings: Settings,
    clock: Arc<SystemClock>,
    make: impl FnOnce(Composed) -> anyhow::Result<H>,
) -> anyhow::Result<Ready<H>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let (models, composed) = compose(settings, Arc::clone(&clock) as Arc<dyn Clock>, runtime.handle().clone())?;
    let metrics = (composed.settings.lambda.metrics_namespace.clone(), composed.settings.stream.name.clone());
    let version = models.current().version().to_owned();
    let handler = Arc::new(make(composed)?);
    tracing::info!(elapsed_us = clock.monotonic_us(), version, "the function is ready");
    Ok(Ready { runtime, models, handler, clock, metrics })
}

fn answer<E, H>(ready: Ready<H>) -> anyhow::Result<()>
where
    E: for<'de> Deserialize<'de> + Send + Sync + Debug + 'static,
    H: Handler<E>,
{
    let Ready { runtime, models, handler, clock, metrics } = ready;
    let answer = move |event: LambdaEvent<E>| {
        let (handler, models, clock, metrics) =
            (Arc::clone(&handler), Arc::clone(&models), Arc::clone(&clock), metrics.clone());
        async move {
            let invocation = tracing::info_span!("invocation", request_id = event.context.request_id);
            let of_invocation = invocation.clone();
            // The adapters block; the runtime's own threads must not.
            let done = tokio::task::spawn_blocking(move || {
                let _invocation = of_invocation.entered();
                models.look_if_due();
                let deadline_ms = i64::try_from(event.context.deadline).unwrap_or(i64::MAX);
                let with = Invoked { model: models.current(), deadline_ms };
                let handled = handler.handle(&event.payload, &with)?;
                for line in handled.report.lines(&metrics.0, &metrics.1, &with.model, clock.now_ms())? {
                    println!("{line}");
                }
                Ok::<_, lambda_runtime::Error>(handled.response)
            });
            let done = done.await?;
            invocation.in_scope(|| done.inspect_err(|error| tracing::error!(%error, "the invocation failed")))
        }
    };
    runtime.block_on(lambda_runtime::run(service_fn(answer))).map_err(|error| anyhow::anyhow!(error))
}

fn compose(
    settings: Settings,
    clock: Arc<dyn Clock>,
    runtime: tokio::runtime::Handle,
) -> anyhow::Result<(Arc<Models>, Composed)> {
    let types = settings.events.compile()?;
    let s3 = S3Options::from_environment(&|name| std::env::var(name).ok());
    let stores = StoreOptions { process_started: SystemTime::now(), s3 };
    let open = |location: &str| -> anyhow::Result<Arc<dyn ObjectStore>> {
        Ok(Arc::from(open_store(location, &stores).with_context(|| format!("opening {location}"))?))
    };
    let source = ModelSource {
        registry: ModelRegistry::new(open(settings.places.registry())?),
        cache_folder: settings.lambda.cache_folder.clone().into(),
        kernels: Kernels::best(),
    };
    // Credentials, the stream's identity and the model come over the network at the same time.
    let model_clock = Arc::clone(&clock);
    let seed = u64::from(std::process::id()) ^ clock.now_ms() as u64;
    let (models, (connection, patience, namespace)) = std::thread::scope(|scope| {
        let models = scope.spawn(|| Models::open(source, types.clone(), model_clock, settings.lambda.model_poll_s));
        let connection = Connection::new(&AwsSettings::default(), runtime);
        let patience = Patience::new(Arc::new(connection.pause()), seed);
        let describe = || identity::describe(&connection.kinesis(&settings.stream.name, None), &patience);
        let namespace = settings.namespace(describe);
        (models.join(), (connection, patience, namespace))
    });
    let models = models.map_err(|_| anyhow::anyhow!("loading the model panicked"))??;
    let namespace = namespace?;
    let state = DynamoState::new(
        StateParts {
            api: Arc::new(connection.dynamo()),
            settings: StateSettings {
                table: settings.lambda.table.clone(),
                namespace: namespace.clone(),
                retention_s: settings.retention_s(),
                ttl_s: settings.history_s(),
            },
            erasure_key: settings.erasure_key()?,
            clock: Arc::clone(&clock),
            patience: patience.clone(),
        },
        &types,
    )?;
    let outbox = &settings.lambda.outbox_table;
    let state = Arc::new(if outbox.is_empty() { state } else { state.with_outbox(outbox) });
    let function = Function {
        state: Arc::<DynamoState>::clone(&state),
        sink: open(&settings.places.delivered)?,
        types,
        settings: settings.stream.clone(),
        namespace,
        rules: settings.rules()?,
        clock,
        scratch: ScratchPool::default(),
        chain: ChainForm::default(),
    };
    let model = models.current();
    Ok((models, Composed { settings, connection, patience, function, state, model, seed }))
}
