//! Settings to components: the one place that reads the clock, chance and the environment, and passes them on as
//! arguments.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anabranch_batch::dataset::Dataset;
use anabranch_batch::etl::erased_floors;
use anabranch_batch::input::InputOptions;
use anabranch_batch::mapping::Mapping;
use anabranch_events::erasure::{ErasedName, ErasureKey, KEY_BYTES};
use anabranch_events::wire::time::parse_time_ms;
use anabranch_events::{EventTypes, HistoryKey};
use anabranch_models::{Hide, Kernels, Model};
use anabranch_stores::lake::{ObjectPath, ObjectStore, S3Options, StoreOptions, open_store};
use anabranch_stores::registry::ModelRegistry;
use anabranch_stores::state::{Create, State};
use anabranch_stores::vectors::{Access, VectorPlaces, VectorStore};
use anabranch_stream::Clock;
use anabranch_stream::models::ModelSource;
use anabranch_stream::notify::webhook::{SECRET_BYTES_MIN, Secret};
use anabranch_stream::notify::{Channel, ChannelKind, LogChannel, Webhook};
use anabranch_stream::running::{NotifyParts, RunningStream, StreamParts};
use anabranch_stream::shared::SharedParts;
use rand::TryRng as _;

use crate::account::is_kinesis;
use crate::args::{Arguments, DataArgs, HideArg};
use crate::failure::Failure;
use crate::log;
use crate::settings::{self, Settings};
use crate::topic::SnsTopic;
use crate::ui::Ui;

/// The note under which a state remembers which dataset it was warmed with.
const IMPORTED_NOTE: &str = "imported-dataset";

/// Makes the way to a topic of SNS, by its ARN.
type TopicOpener<'a> = &'a dyn Fn(&str) -> Result<Box<dyn Channel>, Failure>;

/// What every command works with.
pub(crate) struct Context {
    pub(crate) settings: Settings,
    pub(crate) types: EventTypes,
    pub(crate) ui: Ui,
    pub(crate) clock: Arc<SystemClock>,
    store_options: StoreOptions,
}

/// The operating system's clocks.
#[derive(Debug)]
pub(crate) struct SystemClock {
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

impl SystemClock {
    pub(crate) fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}

impl Context {
    pub(crate) fn new(arguments: &Arguments) -> Result<Self, Failure> {
        let settings = settings::load(arguments.config.as_deref(), arguments.home.as_deref(), std::env::vars())?;
        log::init(arguments, &settings.log)?;
        let types = settings.events.compile()?;
        let store_options = StoreOptions {
            process_started: SystemTime::now(),
            s3: S3Options::from_environment(&|name| std::env::var(name).ok()),
        };
        let clock = Arc::new(SystemClock { started: Instant::now() });
        Ok(Self { settings, types, ui: Ui::new(arguments.json), clock, store_options })
    }

    pub(crate) fn home(&self) -> &Path {
        &self.settings.places.home
    }

    pub(crate) fn state_folder(&self) -> PathBuf {
        self.home().join("state")
    }

    /// Where a running stream says how to reach it.
    pub(crate) fn server_folder(&self) -> PathBuf {
        if is_kinesis(self) { self.home().join("worker") } else { self.state_folder() }
    }

    pub(crate) fn vectors_folder(&self) -> PathBuf {
        self.home().join("vectors")
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        let scratch = &self.settings.places.scratch;
        if scratch.as_os_str().is_empty() { self.home().join("scratch") } else { scratch.clone() }
    }

    pub(crate) fn lake_location(&self) -> String {
        location(&self.settings.places.lake, &self.home().join("lake"))
    }

    pub(crate) fn registry_location(&self) -> String {
        location(self.settings.places.registry(), &self.home().join("lake"))
    }

    pub(crate) fn delivered_location(&self) -> String {
        location(&self.settings.places.delivered, &self.home().join("delivered"))
    }

    pub(crate) fn lake(&self) -> Result<Arc<dyn ObjectStore>, Failure> {
        Ok(Arc::from(open_store(&self.lake_location(), &self.store_options)?))
    }

    pub(crate) fn delivered(&self) -> Result<Arc<dyn ObjectStore>, Failure> {
        Ok(Arc::from(open_store(&self.delivered_location(), &self.store_options)?))
    }

    pub(crate) fn registry(&self) -> Result<ModelRegistry, Failure> {
        Ok(ModelRegistry::new(Arc::from(open_store(&self.registry_location(), &self.store_options)?)))
    }

    /// The vector database of `[vectors]`.
    pub(crate) fn vectors(&self, access: Access) -> Result<Box<dyn VectorStore>, Failure> {
        let folder = self.vectors_folder();
        let places = VectorPlaces {
            folder: Some(&folder),
            access,
            seed: std::process::id().into(),
            variable: &|name| std::env::var(name).ok(),
        };
        Ok(self.settings.vectors.open(&places)?)
    }

    /// Where the embeddings are, for people.
    pub(crate) fn vectors_place(&self) -> String {
        self.settings.vectors.place(&self.vectors_folder())
    }

    /// The current model.
    pub(crate) fn model(&self) -> Result<Model, Failure> {
        let models = self.models()?;
        let current = models.registry.current()?;
        let Some(pointer) = current.pointer else {
            return Err(Failure::missing(format!(
                "no model is published in {}; run `anabranch etl` and `anabranch train` first, or `anabranch demo`",
                self.registry_location()
            )));
        };
        let version = pointer.version.as_str();
        let path = models.registry.local_snapshot(version, &models.cache_folder)?;
        Ok(Model::open(&path, version, models.kernels)?)
    }

    pub(crate) fn models(&self) -> Result<ModelSource, Failure> {
        Ok(ModelSource {
            registry: self.registry()?,
            cache_folder: self.home().join("cache"),
            kernels: Kernels::best(),
        })
    }

    /// The secret of the erasure table, made at its first use.
    pub(crate) fn erasure_key(&self) -> Result<ErasureKey, Failure> {
        let path = self.erasure_key_file();
        match std::fs::read(&path) {
            Ok(bytes) => {
                let bytes: [u8; KEY_BYTES] = bytes.try_into().map_err(|_| {
                    Failure::input(format!(
                        "{} is not a key of {KEY_BYTES} bytes; restore it from a copy",
                        path.display()
                    ))
                })?;
                Ok(ErasureKey::new(bytes))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut bytes = [0; KEY_BYTES];
                rand::rngs::SysRng
                    .try_fill_bytes(&mut bytes)
                    .map_err(|e| Failure::input(format!("the system gives no random bytes: {e}")))?;
                self.write_erasure_key(&bytes)?;
                Ok(ErasureKey::new(bytes))
            }
            Err(error) => Err(Failure::io("read", &path, &error)),
        }
    }

    pub(crate) fn write_erasure_key(&self, bytes: &[u8; KEY_BYTES]) -> Result<(), Failure> {
        let path = self.erasure_key_file();
        write_private(&path, bytes)
    }

    fn erasure_key_file(&self) -> PathBuf {
        self.home().join("keys").join("erasure.key")
    }

    /// Floors of forgotten owners, from the lake's erasure table.
    pub(crate) fn lake_floors(lake: &dyn ObjectStore) -> Result<HashMap<ErasedName, i64>, Failure> {
        Ok(erased_floors(lake)?)
    }

    /// Records floors in the lake's erasure table: create-only objects whose names say everything.
    pub(crate) fn add_lake_floors(lake: &dyn ObjectStore, floors: &[(ErasedName, i64)]) -> Result<(), Failure> {
        for (name, floor) in floors {
            let path = ObjectPath::new(format!("erasures/{name}.{floor}.json"))?;
            let body = format!("{{\"name\":\"{name}\",\"floorMs\":{floor}}}\n");
            // Already there means already recorded.
            let _ = lake.put_new(&path, body.as_bytes())?;
        }
        Ok(())
    }

    /// Opens the stream's state, or creates it.
    pub(crate) fn state(&self) -> Result<Arc<State>, Failure> {
        self.state_in(&self.state_folder())
    }

    pub(crate) fn state_in(&self, folder: &Path) -> Result<Arc<State>, Failure> {
        if let Some(parent) = folder.parent() {
            std::fs::create_dir_all(parent).map_err(|e| Failure::io("create", parent, &e))?;
        }
        let create = Create {
            name: self.settings.stream.name.clone(),
            shards: self.settings.stream.shards,
            now_ms: self.clock.now_ms(),
            secret: *self.erasure_key()?.secret_bytes(),
        };
        Ok(Arc::new(State::open(folder, create)?))
    }

    /// Joins the dataset's histories into the state, once for each dataset: the warm start. Says how many.
    pub(crate) fn warm(&self, state: &State, lake: &dyn ObjectStore) -> Result<u64, Failure> {
        let dataset = match Dataset::current(lake) {
            Ok(dataset) => dataset,
            Err(anabranch_batch::BatchError::NoDataset) => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        let floors: Vec<(ErasedName, i64)> = Self::lake_floors(lake)?.into_iter().collect();
        if !floors.is_empty() {
            state.add_floors(&floors)?;
        }
        let number = dataset.number().to_le_bytes();
        if state.note(IMPORTED_NOTE)?.as_deref() == Some(&number[..]) {
            return Ok(0);
        }
        let imported = state.import(&mut dataset.histories().map(|entry| entry.map_err(Failure::from)), &self.types)?;
        state.put_note(IMPORTED_NOTE, &number)?;
        Ok(imported)
    }

    /// What notifications need, if the settings have a rule.
    pub(crate) fn notify(&self) -> Result<Option<NotifyParts>, Failure> {
        self.notify_by(&|topic| Ok(Box::new(SnsTopic::new(topic)?)))
    }

    /// The same with a way to a topic of SNS, by its ARN.
    pub(crate) fn notify_by(&self, topic: TopicOpener<'_>) -> Result<Option<NotifyParts>, Failure> {
        let settings = &self.settings.notify;
        let rules = settings.compile(&self.types).map_err(Failure::input)?;
        if rules.is_empty() {
            return Ok(None);
        }
        let channel: Box<dyn Channel> = match settings.channel {
            ChannelKind::Log => Box::new(LogChannel),
            ChannelKind::Webhook => {
                let webhook = &settings.webhook;
                Box::new(Webhook::new(&webhook.url, self.webhook_secret()?, webhook.timeout_ms))
            }
            ChannelKind::Sns => topic(&settings.sns.topic)?,
        };
        let mut seed = [0; 8];
        rand::rngs::SysRng
            .try_fill_bytes(&mut seed)
            .map_err(|e| Failure::input(format!("the system gives no random bytes: {e}")))?;
        let seed = u64::from_le_bytes(seed);
        Ok(Some(NotifyParts { rules, channel, attempts_max: settings.attempts_max, seed }))
    }

    /// The webhook's secret. A relative path lies below `home`.
    fn webhook_secret(&self) -> Result<Secret, Failure> {
        let path = self.home().join(&self.settings.notify.webhook.secret_file);
        let bytes = std::fs::read(&path).map_err(|e| Failure::io("read the webhook's secret", &path, &e))?;
        Secret::new(&bytes).ok_or_else(|| {
            Failure::input(format!(
                "{} holds fewer than {SECRET_BYTES_MIN} bytes; make one with: openssl rand -hex 32",
                path.display()
            ))
        })
    }

    /// Starts the stream on `state`.
    pub(crate) fn start_stream(
        &self,
        state: Arc<State>,
        namespace: Option<String>,
        notify: Option<NotifyParts>,
    ) -> Result<RunningStream, Failure> {
        let namespace = namespace.unwrap_or_else(|| state.identity().namespace());
        let shared = SharedParts {
            state,
            sink: self.delivered()?,
            types: self.types.clone(),
            settings: self.settings.stream.clone(),
            namespace,
            model: Arc::new(self.model()?),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
        };
        Ok(RunningStream::start(StreamParts { shared, models: Some(self.models()?), notify })?)
    }

    /// Raw files and their mapping, as the arguments name them.
    pub(crate) fn input(&self, data: &DataArgs) -> Result<(InputOptions, Mapping), Failure> {
        let Some(location) = &data.data else {
            return Err(Failure::input("--data is missing: name the folder, file or s3:// location of your raw files"));
        };
        let mapping = match &data.mapping {
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|e| Failure::io("read the mapping", path, &e))?;
                Mapping::parse(&text).map_err(|error| Failure::input(format!("{}: {error}", path.display())))?
            }
            None => Mapping::default(),
        };
        Ok((self.input_at(location), mapping))
    }

    pub(crate) fn input_at(&self, location: &str) -> InputOptions {
        InputOptions { data: location.to_owned(), store: self.store_options.clone() }
    }

    pub(crate) fn hide(&self, argument: Option<HideArg>) -> Hide {
        match argument {
            None => self.settings.stream.hide,
            Some(HideArg::Nothing) => Hide::Nothing,
            Some(HideArg::Seen) => Hide::Seen,
            Some(HideArg::Everything) => Hide::Everything,
        }
    }
}

fn location(setting: &str, default: &Path) -> String {
    if setting.is_empty() { default.display().to_string() } else { setting.to_owned() }
}

/// A time as people write it.
pub(crate) fn time_argument(name: &str, text: Option<&str>) -> Result<Option<i64>, Failure> {
    text.map(|text| {
        parse_time_ms(text).ok_or_else(|| {
            Failure::input(format!(
                "{name} {text:?} is neither unix seconds, milliseconds nor a date or time in RFC 3339"
            ))
        })
    })
    .transpose()
}

/// User or session, as the arguments name it. Clap requires one of both.
pub(crate) fn owner(user: Option<&str>, session: Option<&str>) -> Result<HistoryKey, Failure> {
    let key = match (user, session) {
        (Some(user), _) => HistoryKey::User(user.into()),
        (None, Some(session)) => HistoryKey::Session(session.into()),
        (None, None) => return Err(Failure::input("name a user or a session")),
    };
    if anabranch_events::ids::check_id(key.id()).is_err() {
        return Err(Failure::input("an id has 1 to 256 bytes"));
    }
    Ok(key)
}

/// Writes a file that only its owner may read, whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|e| Failure::io("create", parent, &e))?;
    let temporary = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        std::fs::File::open(parent)?.sync_all()
    };
    write().map_err(|e| Failure::io("write", path, &e))
}
