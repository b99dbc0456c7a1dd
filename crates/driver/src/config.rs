//! The settings of `ferricd`: each with its documentation and default in one table, from which come the flags, the
//! environment variables, the keys of the configuration file and what `--print-config` prints.
//!
//! A flag wins over a variable, a variable over the file, the file over the default.

use crate::conductor::{AddPorts, KeepLogs, Settings as ConductorSettings};
use crate::effect::cmdline::Parameters;
use crate::hardware_type::{Enabled, Interface, Refused};
use crate::rules::Rule;
use clap::Parser;
use lifecycle::provision::Deadlines;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it has to be; the text of the cause names line and key.
    #[error("understand the configuration file {}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A setting does not make sense.
    #[error("{setting}: {reason}")]
    Invalid {
        /// The setting, as it is called in the file.
        setting: &'static str,
        /// Why, and what to do.
        reason: String,
    },
    /// The hardware types and interfaces that are enabled do not go together.
    #[error("{setting}")]
    Hardware {
        /// The setting, as it is called in the file.
        setting: String,
        /// Why, and what to do.
        #[source]
        source: Refused,
    },
}

/// How operators prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// Not at all; on loopback only.
    None,
    /// By user and password.
    #[serde(rename = "http_basic")]
    #[value(name = "http_basic")]
    HttpBasic,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How a setting is written in the configuration file.
trait Literal {
    fn literal(&self) -> String;
}

impl Literal for SocketAddr {
    fn literal(&self) -> String {
        format!("\"{self}\"")
    }
}

impl Literal for PathBuf {
    fn literal(&self) -> String {
        toml::Value::String(self.display().to_string()).to_string()
    }
}

impl Literal for String {
    fn literal(&self) -> String {
        toml::Value::String(self.clone()).to_string()
    }
}

impl Literal for bool {
    fn literal(&self) -> String {
        self.to_string()
    }
}

impl Literal for u64 {
    fn literal(&self) -> String {
        self.to_string()
    }
}

impl Literal for Auth {
    fn literal(&self) -> String {
        match self {
            Self::None => "\"none\"".to_owned(),
            Self::HttpBasic => "\"http_basic\"".to_owned(),
        }
    }
}

impl Literal for LogFormat {
    fn literal(&self) -> String {
        match self {
            Self::Text => "\"text\"".to_owned(),
            Self::Json => "\"json\"".to_owned(),
        }
    }
}

/// What `ferricd` does besides serving.
#[derive(Debug, clap::Subcommand)]
pub enum Task {
    /// The database in the data folder; a driver may run on it meanwhile
    #[command(subcommand)]
    Db(DbTask),
}

/// What is done to the database.
#[derive(Debug, clap::Subcommand)]
pub enum DbTask {
    /// Look whether every page, reference and document is sound; ends with 1 when something is not
    Check,
    /// Bring the schema up to date, as every start does
    Upgrade,
    /// Copy it as it is at one moment
    Backup {
        /// The file to make
        file: PathBuf,
    },
}

/// Declares the settings: for each its documentation, name, variable, type and default; `optional` ones have none.
macro_rules! settings {
    (
        required { $( $(#[doc = $doc:literal])+ $name:ident [$env:literal]: $type:ty = $default:expr; )+ }
        optional { $( $(#[doc = $odoc:literal])+ $oname:ident [$oenv:literal]: $otype:ty, like $example:literal; )+ }
    ) => {
        /// What is given on the command line or in the environment.
        #[derive(Debug, Default, Parser)]
        #[command(name = "ferricd", version, about = "The Ferric driver: takes servers from powered off to installed.")]
        pub struct Flags {
            /// Configuration file (TOML).
            #[arg(long, env = "FERRIC_CONFIG")]
            pub config: Option<PathBuf>,
            /// Prints a configuration file with every setting, its documentation and its default, and ends.
            #[arg(long)]
            pub print_config: bool,
            $( $(#[doc = $doc])+ #[arg(long, env = $env)] pub $name: Option<$type>, )+
            $( $(#[doc = $odoc])+ #[arg(long, env = $oenv)] pub $oname: Option<$otype>, )+
            /// What to do in place of serving.
            #[command(subcommand)]
            pub command: Option<Task>,
        }

        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            $( $name: Option<$type>, )+
            $( $oname: Option<$otype>, )+
        }

        /// The settings in force.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Config {
            $( $(#[doc = $doc])+ pub $name: $type, )+
            $( $(#[doc = $odoc])+ pub $oname: Option<$otype>, )+
        }

        impl Config {
            fn merge(flags: Flags, file: File) -> Self {
                Self {
                    $( $name: flags.$name.or(file.$name).unwrap_or_else(|| $default), )+
                    $( $oname: flags.$oname.or(file.$oname), )+
                }
            }

            /// A configuration file that says what is so without one.
            pub fn print() -> String {
                let mut text = String::from("# Settings of ferricd, with their defaults.\n");
                let mut add = |documentation: &[&str], variable: &str, line: String| {
                    text.push('\n');
                    for line in documentation {
                        text.push_str(&format!("#{line}\n"));
                    }
                    text.push_str(&format!("# Variable: {variable}\n{line}\n"));
                };
                $(
                    let default: $type = $default;
                    add(&[$($doc),+], $env, format!("#{} = {}", stringify!($name), default.literal()));
                )+
                $( add(&[$($odoc),+], $oenv, format!("#{} = {}", stringify!($oname), $example)); )+
                text
            }
        }
    };
}

settings! {
    required {
        /// Address and port of the API for operators, and for agents unless agent_listen is set.
        listen ["FERRIC_LISTEN"]: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 6385));
        /// Folder of everything that has to survive: the database ferric.db and boot media. Made when it is not there.
        data_dir ["FERRIC_DATA_DIR"]: PathBuf = PathBuf::from("/var/lib/ferric");
        /// How operators prove who they are: "none" believes everybody and is refused unless listen is on loopback;
        /// "http_basic" asks for a user of http_basic_auth_user_file and its password.
        auth ["FERRIC_AUTH"]: Auth = Auth::None;
        /// Form of log lines: "text" or "json".
        log_format ["FERRIC_LOG_FORMAT"]: LogFormat = LogFormat::Text;
        /// What is logged: a level, or levels by module, such as "info,driver=debug".
        log ["FERRIC_LOG"]: String = "info".to_owned();
        /// Seconds after which an agent's heartbeat is missed. Agents send one after 0.3 to 0.6 of it.
        heartbeat_timeout ["FERRIC_HEARTBEAT_TIMEOUT"]: u64 = 300;
        /// Whether agents have to serve TLS.
        require_tls ["FERRIC_REQUIRE_TLS"]: bool = true;
        /// Whether agents find their node only while something is done to it.
        restrict_lookup ["FERRIC_RESTRICT_LOOKUP"]: bool = true;
        /// Whether nodes are cleaned before they become available, unless a node says otherwise.
        automated_clean ["FERRIC_AUTOMATED_CLEAN"]: bool = true;
        /// Which interfaces become ports at inspection: "pxe", "active", "all" or "disabled".
        add_ports ["FERRIC_ADD_PORTS"]: String = "pxe".to_owned();
        /// Parameters added to the ramdisk's kernel command line.
        kernel_append_params ["FERRIC_KERNEL_APPEND_PARAMS"]: String = String::new();
        /// Priorities of automated clean steps in place of the agent's: "erase_devices=0,raid.delete_configuration=95".
        /// A step is named with or without its interface; 0 turns it off.
        clean_step_priority_override ["FERRIC_CLEAN_STEP_PRIORITY_OVERRIDE"]: String = String::new();
        /// Whether a ramdisk stays on after inspection and cleaning, so that the next flow needs no boot. A node may say
        /// otherwise in driver_info/fast_track.
        fast_track ["FERRIC_FAST_TRACK"]: bool = false;
        /// Seconds without a heartbeat after which such a ramdisk is not used.
        fast_track_timeout ["FERRIC_FAST_TRACK_TIMEOUT"]: u64 = 300;
        /// When a ramdisk's logs are kept: "always", "on_failure" or "never".
        deploy_logs_collect ["FERRIC_DEPLOY_LOGS_COLLECT"]: String = "on_failure".to_owned();
        /// Most nodes that are deployed at once; one more is answered 503.
        max_concurrent_deploy ["FERRIC_MAX_CONCURRENT_DEPLOY"]: u64 = 250;
        /// Most nodes that are cleaned at once; one more is answered 503.
        max_concurrent_clean ["FERRIC_MAX_CONCURRENT_CLEAN"]: u64 = 50;
        /// Seconds between two looks at the power state of a node; 0 for never.
        sync_power_state_interval ["FERRIC_SYNC_POWER_STATE_INTERVAL"]: u64 = 120;
        /// How often in a row the power state may not be readable before the node is set aside.
        power_state_sync_max_retries ["FERRIC_POWER_STATE_SYNC_MAX_RETRIES"]: u64 = 3;
        /// Whether a machine whose power is not as recorded is switched back; otherwise what it is in is recorded.
        force_power_state_during_sync ["FERRIC_FORCE_POWER_STATE_DURING_SYNC"]: bool = true;
        /// Seconds between two looks at a node that was set aside because its BMC did not answer.
        power_failure_recovery_interval ["FERRIC_POWER_FAILURE_RECOVERY_INTERVAL"]: u64 = 300;
        /// Seconds between being told to stop and no longer accepting connections; /readyz says no meanwhile, so that a
        /// load balancer can look elsewhere.
        drain_delay ["FERRIC_DRAIN_DELAY"]: u64 = 0;
        /// Seconds that an operating system has to shut down after a soft power off.
        soft_power_off_timeout ["FERRIC_SOFT_POWER_OFF_TIMEOUT"]: u64 = 600;
        /// Whether agents may dial in and hold a session, so that nothing has to reach into their network. Agents that cannot
        /// do so are reached as ever.
        sessions ["FERRIC_SESSIONS"]: bool = true;
        /// Limits of states in seconds, in place of those in docs/state-machine.md:
        /// "deploy_callback_timeout=3600,clean_callback_timeout=0"; 0 for none.
        deadlines ["FERRIC_DEADLINES"]: String = String::new();
    }
    optional {
        /// Users for http_basic, a line each as `htpasswd -B` writes it. Read again when it changes.
        http_basic_auth_user_file ["FERRIC_HTTP_BASIC_AUTH_USER_FILE"]: PathBuf, like "\"/etc/ferric/htpasswd\"";
        /// Certificate chain (PEM) of the API for operators, which then serves TLS 1.2 and 1.3 only. Needs tls_key.
        tls_certificate ["FERRIC_TLS_CERTIFICATE"]: PathBuf, like "\"/etc/ferric/tls.pem\"";
        /// Private key (PEM) of tls_certificate.
        tls_key ["FERRIC_TLS_KEY"]: PathBuf, like "\"/etc/ferric/tls.key\"";
        /// A second address and port, for agents and BMCs alone: lookup, heartbeat, inspection and boot files.
        agent_listen ["FERRIC_AGENT_LISTEN"]: SocketAddr, like "\"192.0.2.1:6386\"";
        /// URL under which agents and BMCs reach the driver. Needed where they listen on an unspecified address or come
        /// through a proxy; otherwise it is http:// and the address that agents are served on.
        api_url ["FERRIC_API_URL"]: String, like "\"http://192.0.2.1:6386\"";
        /// Address and port on which agents dial in, by TLS with certificates of the driver's own; port 6387 of the address on
        /// which agents are served when unset.
        session_listen ["FERRIC_SESSION_LISTEN"]: SocketAddr, like "\"192.0.2.1:6387\"";
        /// URL under which agents reach session_listen; https:// with the host of api_url and the port when unset.
        session_url ["FERRIC_SESSION_URL"]: String, like "\"https://ferric.example.org:6387\"";
        /// Folder with the ramdisk: ferric.efi, or any agent's vmlinuz and initramfs together with systemd's linuxx64.efi.stub.
        ramdisk_dir ["FERRIC_RAMDISK_DIR"]: PathBuf, like "\"/usr/share/ferric/ramdisk\"";
        /// Folder with the ramdisk for rescues, such as that of profile rescue; ramdisk_dir when unset.
        rescue_ramdisk_dir ["FERRIC_RESCUE_RAMDISK_DIR"]: PathBuf, like "\"/usr/share/ferric/rescue\"";
        /// Folder for the logs of ramdisks; logs in data_dir when unset.
        deploy_logs_dir ["FERRIC_DEPLOY_LOGS_DIR"]: PathBuf, like "\"/var/log/ferric/deploy\"";
        /// Private key (PEM, PKCS #8, Ed25519) that signs records of erasures; erasure-key.pem in data_dir when unset. Made
        /// when it is not there.
        erasure_key ["FERRIC_ERASURE_KEY"]: PathBuf, like "\"/etc/ferric/erasure-key.pem\"";
        /// Name under which this driver owns nodes; the machine's host name when unset.
        hostname ["FERRIC_HOSTNAME"]: String, like "\"ferric-1\"";
        /// File of inspection rules that run besides those of the API: JSON, a list of rules as the API takes them.
        built_in_inspection_rules ["FERRIC_BUILT_IN_INSPECTION_RULES"]: PathBuf, like "\"/etc/ferric/inspection-rules.json\"";
        /// Hardware types that nodes may have: names with commas between them; all that there are when unset.
        enabled_hardware_types ["FERRIC_ENABLED_HARDWARE_TYPES"]: String, like "\"fake-hardware,redfish\"";
        /// Bios interfaces that nodes may have; all that their hardware types support when unset.
        enabled_bios_interfaces ["FERRIC_ENABLED_BIOS_INTERFACES"]: String, like "\"no-bios,redfish\"";
        /// The one of nodes that name none; the first that the hardware type supports when unset.
        default_bios_interface ["FERRIC_DEFAULT_BIOS_INTERFACE"]: String, like "\"no-bios\"";
        /// Boot interfaces that nodes may have; all that their hardware types support when unset.
        enabled_boot_interfaces ["FERRIC_ENABLED_BOOT_INTERFACES"]: String, like "\"fake,redfish-virtual-media\"";
        /// The one of nodes that name none; the first that the hardware type supports when unset.
        default_boot_interface ["FERRIC_DEFAULT_BOOT_INTERFACE"]: String, like "\"redfish-virtual-media\"";
        /// Console interfaces that nodes may have; all that their hardware types support when unset.
        enabled_console_interfaces ["FERRIC_ENABLED_CONSOLE_INTERFACES"]: String, like "\"no-console\"";
        /// The one of nodes that name none; the first that the hardware type supports when unset.
        default_console_interface ["FERRIC_DEFAULT_CONSOLE_INTERFACE"]: String, like "\"no-console\"";
        /// Deploy interfaces that nodes may have; all that their hardware types support when unset.
        enabled_deploy_interfaces ["FERRIC_ENABLED_DEPLOY_INTERFACES"]: String, like "\"direct,fake\"";
        /// The one of nodes that name none; the first that the hardware type supports when unset.
        default_deploy_interface ["FERRIC_DEFAULT_DEPLOY_INTERFACE"]: String, like "\"direct\"";
        /// Firmware interfaces that nodes may have; all that their hardware types support when unset.
        enabled_firmware_interfaces ["FERRIC_ENABLED_FIRMWARE_INTERFACES"]: String, like "\"no-firmware,redfish\"";
        /// The one of nodes that name none; the first that the hardware type supports when unset.
        default_firmware_interface ["FERRIC_DEFAULT_FIRMWARE_INTERFACE"]: String, like "\"no-firmware\"";
        /// Inspect interfaces that nodes may have; all that their hardware types support when unset.
        enabled_inspect_interfaces ["FERRIC_ENABLED_INSPECT_INTERFACES"]: String, like "\"agent,fake,no-inspect\"";
        /// The one of nodes that name none; the first that the hardware type supports when unset.
        default_inspect_interface ["FERRIC_DEFAULT_INSPECT_INTERFACE"]: String, like "\"agent\"";
        /// Management interfaces that nodes may have; all that their hardware types support when unset.
        enabled_management_interfaces ["FERRIC_ENABLED_MANAGEMENT_INTERFACES"]: String, like "\"fake,redfish\"";
        /// The one of nodes that name none; the first that the hardware type supports when unset.
        default_management_interface ["FERRIC_DEFAULT_MANAGEMENT_INTERFACE"]: String, like "\"redfish\"";
        /// Network interfaces that nodes may have; all that their hardware types support when unset.
        enabled_network_interfaces ["FERRIC_ENABLED_NETWORK_INTERFACES"]: String, like "\"noop\"";
        /// The one of nodes that name none; the first that the hardware type supports when unset.
        default_network_interface ["FERRIC_DEFAULT_NETWORK_INTERFACE"]: String, like "\"noop\"";
        /// Power interfaces that nodes may have; all that their hardware types support when unset.
        enabled_power_interfaces ["FERRIC_ENABLED_POWER_INTERFACES"]: String, like "\"fake,redfish\"";
        /// The one of nodes that name none; the first that the hardware type supports when unset.
        default_power_interface ["FERRIC_DEFAULT_POWER_INTERFACE"]: String, like "\"redfish\"";
        /// Raid interfaces that nodes may have; all that their hardware types support when unset.
        enabled_raid_interfaces ["FERRIC_ENABLED_RAID_INTERFACES"]: String, like "\"no-raid\"";
        /// The one of nodes that name none; the first that the hardware type supports when unset.
        default_raid_interface ["FERRIC_DEFAULT_RAID_INTERFACE"]: String, like "\"no-raid\"";
        /// Rescue interfaces that nodes may have; all that their hardware types support when unset.
        enabled_rescue_interfaces ["FERRIC_ENABLED_RESCUE_INTERFACES"]: String, like "\"agent,no-rescue\"";
        /// The one of nodes that name none; the first that the hardware type supports when unset.
        default_rescue_interface ["FERRIC_DEFAULT_RESCUE_INTERFACE"]: String, like "\"agent\"";
        /// Storage interfaces that nodes may have; all that their hardware types support when unset.
        enabled_storage_interfaces ["FERRIC_ENABLED_STORAGE_INTERFACES"]: String, like "\"noop\"";
        /// The one of nodes that name none; the first that the hardware type supports when unset.
        default_storage_interface ["FERRIC_DEFAULT_STORAGE_INTERFACE"]: String, like "\"noop\"";
        /// Vendor interfaces that nodes may have; all that their hardware types support when unset.
        enabled_vendor_interfaces ["FERRIC_ENABLED_VENDOR_INTERFACES"]: String, like "\"no-vendor\"";
        /// The one of nodes that name none; the first that the hardware type supports when unset.
        default_vendor_interface ["FERRIC_DEFAULT_VENDOR_INTERFACE"]: String, like "\"no-vendor\"";
    }
}

impl Config {
    /// Puts flags, variables (clap has read them into the flags) and the file together, and checks them.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(flags: Flags) -> Result<Self, ConfigError> {
        let file = match &flags.config {
            None => File::default(),
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
                parse(path, &text)?
            }
        };
        let config = Self::merge(flags, file);
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let invalid = |setting, reason: String| Err(ConfigError::Invalid { setting, reason });
        if self.auth == Auth::None && !self.listen.ip().is_loopback() {
            return invalid(
                "auth",
                format!(
                    "\"none\" lets everybody who reaches {} do everything; set listen to a loopback address such as \
                     127.0.0.1:6385 (and agent_listen for agents)",
                    self.listen
                ),
            );
        }
        if self.auth == Auth::HttpBasic && self.http_basic_auth_user_file.is_none() {
            return invalid("http_basic_auth_user_file", "auth = \"http_basic\" needs a file of users".to_owned());
        }
        if self.tls_certificate.is_some() != self.tls_key.is_some() {
            return invalid("tls_key", "tls_certificate and tls_key go together; set both or none".to_owned());
        }
        if self.agent_listen == Some(self.listen) && self.listen.port() != 0 {
            return invalid(
                "agent_listen",
                format!("{} is taken by listen; leave it out or choose another", self.listen),
            );
        }
        if !(10..=86_400).contains(&self.heartbeat_timeout) {
            return invalid("heartbeat_timeout", "choose 10 to 86400 seconds".to_owned());
        }
        if let Some(url) = &self.api_url
            && !(url.starts_with("http://") || url.starts_with("https://"))
        {
            return invalid("api_url", format!("\"{url}\" does not begin with http:// or https://"));
        }
        if let Some(url) = &self.session_url {
            let parsed = url.parse::<http::Uri>().ok();
            let plain =
                |url: &http::Uri| url.scheme_str() == Some("https") && url.host().is_some() && url.path() == "/";
            if !parsed.as_ref().is_some_and(plain) {
                return invalid("session_url", format!("\"{url}\" is not https://<host>:<port>"));
            }
        }
        self.hardware()?;
        self.inspection_rules()?;
        self.ports_setting()?;
        self.clean_step_priorities()?;
        self.keep_logs()?;
        self.limits()?;
        Ok(())
    }

    fn inspection_rules(&self) -> Result<Vec<Rule>, ConfigError> {
        let Some(path) = &self.built_in_inspection_rules else { return Ok(Vec::new()) };
        let text = std::fs::read(path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        crate::api::read_rules(&text).map_err(|reason| ConfigError::Invalid {
            setting: "built_in_inspection_rules",
            reason: format!("{}: {reason}", path.display()),
        })
    }

    fn hardware(&self) -> Result<Enabled, ConfigError> {
        let interfaces = [
            (Interface::Bios, &self.enabled_bios_interfaces, &self.default_bios_interface),
            (Interface::Boot, &self.enabled_boot_interfaces, &self.default_boot_interface),
            (Interface::Console, &self.enabled_console_interfaces, &self.default_console_interface),
            (Interface::Deploy, &self.enabled_deploy_interfaces, &self.default_deploy_interface),
            (Interface::Firmware, &self.enabled_firmware_interfaces, &self.default_firmware_interface),
            (Interface::Inspect, &self.enabled_inspect_interfaces, &self.default_inspect_interface),
            (Interface::Management, &self.enabled_management_interfaces, &self.default_management_interface),
            (Interface::Network, &self.enabled_network_interfaces, &self.default_network_interface),
            (Interface::Power, &self.enabled_power_interfaces, &self.default_power_interface),
            (Interface::Raid, &self.enabled_raid_interfaces, &self.default_raid_interface),
            (Interface::Rescue, &self.enabled_rescue_interfaces, &self.default_rescue_interface),
            (Interface::Storage, &self.enabled_storage_interfaces, &self.default_storage_interface),
            (Interface::Vendor, &self.enabled_vendor_interfaces, &self.default_vendor_interface),
        ];
        let rows = interfaces.map(|(interface, list, default)| (interface, list.as_deref(), default.as_deref()));
        Enabled::read(self.enabled_hardware_types.as_deref(), rows)
            .map_err(|refused| ConfigError::Hardware { setting: refused.setting.clone(), source: refused })
    }

    fn ports_setting(&self) -> Result<AddPorts, ConfigError> {
        Ok(match self.add_ports.as_str() {
            "pxe" => AddPorts::Pxe,
            "active" => AddPorts::Active,
            "all" => AddPorts::All,
            "disabled" => AddPorts::Disabled,
            other => {
                let reason = format!("\"{other}\" is none of pxe, active, all, disabled");
                return Err(ConfigError::Invalid { setting: "add_ports", reason });
            }
        })
    }

    /// The URL under which agents and BMCs reach the driver, that listens for them on `address`.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`]: it listens on every address and nobody said which of them agents reach.
    pub fn agent_url(&self, address: SocketAddr) -> Result<String, ConfigError> {
        match &self.api_url {
            Some(url) => Ok(url.trim_end_matches('/').to_owned()),
            None if address.ip().is_unspecified() => Err(ConfigError::Invalid {
                setting: "api_url",
                reason: format!("agents are served on {address}, which no agent can reach; say the URL that they can"),
            }),
            None => {
                let tls = self.tls_certificate.is_some() && self.agent_listen.is_none();
                let scheme = if tls { "https" } else { "http" };
                Ok(format!("{scheme}://{}", host(address)))
            }
        }
    }

    /// Where agents dial in, of a driver that serves agents on `agents`; and whether somebody has said so. [`None`]: nowhere.
    pub fn session_address(&self, agents: SocketAddr) -> Option<(SocketAddr, bool)> {
        /// The port beside that of the API.
        const PORT: u16 = 6387;
        if !self.sessions {
            return None;
        }
        // Whoever has the system choose one port has it choose both.
        let any = self.agent_listen.unwrap_or(self.listen).port() == 0;
        let own = SocketAddr::new(agents.ip(), if any { 0 } else { PORT });
        Some(self.session_listen.map_or((own, false), |address| (address, true)))
    }

    /// The URL that agents are told to dial, of a driver that agents reach under `agent_url` and that listens for sessions on
    /// `port`.
    pub fn session_url(&self, agent_url: &str, port: u16) -> String {
        match &self.session_url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => {
                let uri = agent_url.parse::<http::Uri>().ok();
                let host = uri.as_ref().and_then(http::Uri::host).unwrap_or("localhost");
                format!("https://{host}:{port}")
            }
        }
    }

    /// The settings of the conductor, whose agents are served on `address`.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`].
    pub fn conductor(&self, address: SocketAddr) -> Result<ConductorSettings, ConfigError> {
        let hostname = self.hostname.clone().unwrap_or_else(hostname);
        let mut settings = ConductorSettings::new(hostname, &self.data_dir, &self.agent_url(address)?);
        settings.hardware = self.hardware()?;
        settings.inspection_rules = self.inspection_rules()?;
        settings.media.ramdisk_dir = self.ramdisk_dir.clone();
        settings.media.rescue_ramdisk_dir = self.rescue_ramdisk_dir.clone();
        settings.media.kernel_append_params = Parameters::parse(&self.kernel_append_params)
            .map_err(|error| ConfigError::Invalid { setting: "kernel_append_params", reason: error.to_string() })?;
        settings.require_tls = self.require_tls;
        settings.restrict_lookup = self.restrict_lookup;
        settings.automated_clean = self.automated_clean;
        settings.heartbeat_timeout = self.heartbeat_timeout;
        settings.add_ports = self.ports_setting()?;
        settings.clean_step_priorities = self.clean_step_priorities()?;
        settings.fast_track = self.fast_track;
        settings.fast_track_timeout = Duration::from_secs(self.fast_track_timeout);
        settings.keep_logs = self.keep_logs()?;
        if let Some(folder) = &self.deploy_logs_dir {
            settings.logs_dir.clone_from(folder);
        }
        if let Some(file) = &self.erasure_key {
            settings.erasure_key.clone_from(file);
        }
        settings.max_concurrent_deploy = usize::try_from(self.max_concurrent_deploy).unwrap_or(usize::MAX);
        settings.max_concurrent_clean = usize::try_from(self.max_concurrent_clean).unwrap_or(usize::MAX);
        settings.sync_power_state_interval = Duration::from_secs(self.sync_power_state_interval);
        settings.power_state_sync_max_retries = u32::try_from(self.power_state_sync_max_retries).unwrap_or(u32::MAX);
        settings.force_power_state_during_sync = self.force_power_state_during_sync;
        settings.power_failure_recovery_interval = Duration::from_secs(self.power_failure_recovery_interval.max(1));
        settings.soft_power_off_timeout = Duration::from_secs(self.soft_power_off_timeout);
        settings.deadlines = self.limits()?;
        Ok(settings)
    }

    fn clean_step_priorities(&self) -> Result<BTreeMap<String, i64>, ConfigError> {
        let setting = "clean_step_priority_override";
        let pairs = pairs(setting, &self.clean_step_priority_override, "erase_devices=0")?;
        Ok(pairs.into_iter().map(|(step, priority)| (step, i64::from(priority))).collect())
    }

    fn keep_logs(&self) -> Result<KeepLogs, ConfigError> {
        Ok(match self.deploy_logs_collect.as_str() {
            "always" => KeepLogs::Always,
            "on_failure" => KeepLogs::OnFailure,
            "never" => KeepLogs::Never,
            other => {
                let reason = format!("\"{other}\" is none of always, on_failure, never");
                return Err(ConfigError::Invalid { setting: "deploy_logs_collect", reason });
            }
        })
    }

    fn limits(&self) -> Result<Deadlines, ConfigError> {
        let setting = "deadlines";
        let mut limits = Deadlines::default();
        for (name, seconds) in pairs(setting, &self.deadlines, "deploy_callback_timeout=1800")? {
            let set = limits.set(&name, u64::from(seconds));
            set.map_err(|error| ConfigError::Invalid { setting, reason: error.to_string() })?;
        }
        Ok(limits)
    }
}

/// Reads `name=number,name=number`.
fn pairs(setting: &'static str, text: &str, example: &str) -> Result<Vec<(String, u32)>, ConfigError> {
    let read = |pair: &str| {
        let (name, number) = pair.split_once('=')?;
        let (name, number) = (name.trim(), number.trim().parse().ok()?);
        (!name.is_empty()).then(|| (name.to_owned(), number))
    };
    text.split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let reason = || format!("\"{pair}\" is not a name and a whole number like {example}");
            read(pair).ok_or_else(|| ConfigError::Invalid { setting, reason: reason() })
        })
        .collect()
}

fn parse(path: &Path, text: &str) -> Result<File, ConfigError> {
    toml::from_str(text).map_err(|source| ConfigError::Syntax { path: path.to_owned(), source: Box::new(source) })
}

/// An address as part of a URL; an IPv4 address inside an IPv6 one is written as what it is.
fn host(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => SocketAddr::from((ip, address.port())),
            None => address,
        },
        IpAddr::V4(_) => address,
    }
}

/// The machine's host name.
fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, flags: &[&str]) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ferricd.toml");
        std::fs::write(&path, file).unwrap();
        let mut arguments = vec!["ferricd", "--config", path.to_str().unwrap()];
        arguments.extend(flags);
        Config::load(Flags::try_parse_from(arguments).unwrap())
    }

    #[test]
    fn the_generated_page_is_up_to_date() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/ferricd.toml");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&file, Config::print()).unwrap();
        }
        let committed = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(committed == Config::print(), "docs/ferricd.toml is stale; `cargo xtask docs` writes it anew");
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let config = load("listen = \"127.0.0.1:1\"\ndata_dir = \"/a\"\n", &["--data-dir", "/b"]).unwrap();
        assert_eq!(config.listen, SocketAddr::from(([127, 0, 0, 1], 1)));
        assert_eq!(config.data_dir, PathBuf::from("/b"));
        assert_eq!(config.heartbeat_timeout, 300);
    }

    #[test]
    fn nobody_is_believed_beyond_loopback() {
        let error = load("", &["--listen", "0.0.0.0:6385"]).unwrap_err();
        assert!(matches!(error, ConfigError::Invalid { setting: "auth", .. }), "{error}");
        assert!(load("", &["--listen", "[::1]:6385", "--agent-listen", "0.0.0.0:6386"]).is_ok());
    }

    #[test]
    fn mistakes_in_the_file_are_named() {
        for file in ["lissten = 1", "listen = 1", "heartbeat_timeout = \"x\"", "listen ="] {
            assert!(matches!(load(file, &[]), Err(ConfigError::Syntax { .. })), "{file}");
        }
        for file in [
            "heartbeat_timeout = 1",
            "api_url = \"ftp://x\"",
            "add_ports = \"some\"",
            "clean_step_priority_override = \"erase_devices\"",
            "clean_step_priority_override = \"erase_devices=x\"",
            "deadlines = \"deploy_callbak_timeout=1\"",
            "deploy_logs_collect = \"sometimes\"",
        ] {
            assert!(matches!(load(file, &[]), Err(ConfigError::Invalid { .. })), "{file}");
        }
    }

    #[test]
    fn hardware_types_and_interfaces_are_chosen_as_in_ironic_conf() {
        let file = "enabled_hardware_types = \"fake-hardware\"\nenabled_deploy_interfaces = \"direct,fake\"\n\
                    default_deploy_interface = \"direct\"\n";
        let settings = load(file, &[]).unwrap().conductor("127.0.0.1:1".parse().unwrap()).unwrap();
        let kind = settings.hardware.named("fake-hardware").unwrap();
        assert_eq!(settings.hardware.default_of(kind, Interface::Deploy), Some("direct"));
        assert!(settings.hardware.named("redfish").is_none());
        let error = load("enabled_boot_interfaces = \"ipxe\"", &[]).unwrap_err();
        let text = transport::client::chain(&error);
        assert!(text.contains("enabled_boot_interfaces") && text.contains("ipxe"), "{text}");
    }

    #[test]
    fn rules_of_the_site_are_read_and_what_is_wrong_with_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules.json");
        let file = format!("built_in_inspection_rules = {path:?}");
        let rules = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let settings = load(&file, &[])?.conductor("127.0.0.1:1".parse().unwrap())?;
            Ok::<_, ConfigError>(settings.inspection_rules)
        };
        let read = rules(r#"[{"priority": -5, "actions": [{"op": "fail", "args": {"msg": "no"}}]}]"#).unwrap();
        assert_eq!((read[0].uuid.as_str(), read[0].priority), ("00000000-0000-0000-0000-000000000000", -5));
        for (text, word) in [
            ("{}", "list"),
            ("[1]", "rule 0"),
            (r#"[{"actions": []}]"#, "actions"),
            (r#"[{"actions": [{"op": "jump", "args": {}}]}]"#, "jump"),
            (r#"[{"colour": 1, "actions": [{"op": "fail", "args": ["x"]}]}]"#, "colour"),
        ] {
            let error = rules(text).unwrap_err().to_string();
            assert!(error.contains("built_in_inspection_rules") && error.contains(word), "{text}: {error}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(load(&file, &[]), Err(ConfigError::Read { .. })));
    }

    #[test]
    fn priorities_and_deadlines_reach_the_conductor() {
        let file = "clean_step_priority_override = \"erase_devices = 0, raid.create=95\"\n\
                    deadlines = \"deploy_callback_timeout=60\"\n";
        let settings = load(file, &[]).unwrap().conductor("127.0.0.1:1".parse().unwrap()).unwrap();
        let priorities = BTreeMap::from([("erase_devices".to_owned(), 0), ("raid.create".to_owned(), 95)]);
        assert_eq!(settings.clean_step_priorities, priorities);
        let limit = settings.deadlines.limit(lifecycle::provision::State::DeployWait);
        assert_eq!(limit, Some(Duration::from_secs(60)));
    }

    #[test]
    fn the_url_of_agents_is_the_address_they_are_served_on_unless_that_says_nothing() {
        let config = load("", &[]).unwrap();
        let served = |text: &str| config.agent_url(text.parse().unwrap());
        assert_eq!(served("10.0.0.1:80").unwrap(), "http://10.0.0.1:80");
        assert_eq!(served("[2001:db8::1]:80").unwrap(), "http://[2001:db8::1]:80");
        assert!(served("0.0.0.0:80").is_err());
        let config = load("api_url = \"https://ferric.example.org/\"", &[]).unwrap();
        assert_eq!(config.agent_url("0.0.0.0:80".parse().unwrap()).unwrap(), "https://ferric.example.org");
    }

    #[test]
    fn agents_dial_the_host_of_the_api_unless_somebody_says_otherwise() {
        let config = load("", &[]).unwrap();
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(config.session_address(address("192.0.2.1:6385")), Some((address("192.0.2.1:6387"), false)));
        assert_eq!(config.session_url("http://192.0.2.1:6385", 6387), "https://192.0.2.1:6387");
        assert_eq!(config.session_url("http://[2001:db8::1]:6385", 1), "https://[2001:db8::1]:1");
        let any = load("listen = \"127.0.0.1:0\"", &[]).unwrap();
        assert_eq!(any.session_address(address("127.0.0.1:4711")), Some((address("127.0.0.1:0"), false)));
        let file = "session_listen = \"0.0.0.0:7\"\nsession_url = \"https://relay.example.org:8/\"";
        let config = load(file, &[]).unwrap();
        assert_eq!(config.session_address(address("192.0.2.1:1")), Some((address("0.0.0.0:7"), true)));
        assert_eq!(config.session_url("http://192.0.2.1:1", 7), "https://relay.example.org:8");
        assert_eq!(load("sessions = false", &[]).unwrap().session_address(address("192.0.2.1:1")), None);
        for url in ["http://x:1", "x", "https://x:1/y", "https://"] {
            assert!(load(&format!("session_url = \"{url}\""), &[]).is_err(), "{url}");
        }
    }

    #[test]
    fn the_printed_file_is_reviewed_and_says_what_is_so_without_it() {
        let text = Config::print();
        insta::assert_snapshot!(text);
        assert_eq!(load(&text, &[]).unwrap(), load("", &[]).unwrap());
        // Every setting is understood when it is no longer a comment.
        let setting = |line: &&str| line.starts_with('#') && !line.starts_with("# ") && line.contains(" = ");
        let lines: Vec<&str> = text.lines().filter(setting).map(|line| &line[1..]).collect();
        parse(Path::new("all"), &lines.join("\n")).unwrap();
    }
}
