##! The notices that netseq's alerts become, whichever way they reach Zeek.

@load base/frameworks/notice

module NetSeq;

export {
	redef enum Notice::Type += {
		## A conversation said something in an hour that benign traffic hardly ever says.
		Sequence_Anomaly,
		## The last flows look like a class of attack that a model was trained on, or went over a fixed rule. The signature,
		## such as ``NetSeq::Web_Attack`` or ``NetSeq::Sweep``, stands first in the sub-message.
		Attack,
		## The sensor did not see or judge everything in the last minute.
		Sensor_Degraded,
	};

	## For how long equal notices are suppressed: the same hosts, responder port and signature. It is less than the hour for
	## which netseq itself keeps quiet about a conversation (``detect.quiet_s``), so that netseq decides what is told again.
	## :zeek:see:`Notice::type_suppression_intervals` goes before it.
	const suppress_for: interval = 10min &redef;

	## Whether a notice bears the time of the alert, which is the end of the flow that raised it. Otherwise it bears the time
	## at which it reached Zeek: later, and much later when the alert waited while Zeek was away.
	const use_alert_time = T &redef;

	## An alert as it came, by the names of netseq's JSON lines.
	type Alert: record {
		## When it was raised: the end of the flow that raised it, by the sensor's packets.
		ts: time;
		## Zeek's uid of that flow, where it came from Zeek.
		uid: string &optional;
		## Who spoke with whom. An alert about the sensor itself has no hosts.
		id: conn_id &optional;
		## What was found.
		signature: string;
		## Name of the sensor.
		sensor: string;
		## The alert in words.
		msg: string;
		## Severity, p-value and reasons in short.
		sub: string;
		## How strong it is.
		score: double;
		## What the score is: ``nats``, ``probability``, ``share lost``, ``attempts``, ``hosts`` or ``ports``.
		measure: string;
	};

	## Called with each alert before it becomes a notice; ``break`` leaves it out.
	##
	## a: the alert, which may be changed.
	global alert_policy: hook(a: NetSeq::Alert);

	## Raises the notice of an alert. Call it on one node of a cluster only.
	##
	## a: the alert.
	global raise_notice: function(a: NetSeq::Alert);
}

# The largest number that a double holds without a gap, and more than any score.
const most = 1e15;

function note_of(signature: string): Notice::Type
	{
	if ( signature == "NetSeq::Sequence_Anomaly" )
		return Sequence_Anomaly;

	if ( signature == "NetSeq::Sensor_Degraded" )
		return Sensor_Degraded;

	return Attack;
	}

# The score as a whole number: probabilities and shares in per cent. double_to_count() refuses what is negative or no number.
function number_of(a: Alert): count
	{
	local score = a$score;

	if ( a$measure == "probability" || a$measure == "share lost" )
		score = score * 100.0;

	if ( score >= 0.0 && score <= most )
		return double_to_count(score);

	if ( score > most )
		return double_to_count(most);

	return 0;
	}

function raise_notice(a: Alert)
	{
	if ( ! hook alert_policy(a) )
		return;

	local n = Notice::Info($note=note_of(a$signature), $msg=a$msg, $sub=a$sub,
	    $n=number_of(a), $peer_descr=a$sensor, $suppress_for=suppress_for);

	if ( use_alert_time )
		n$ts = a$ts;

	if ( a?$uid )
		n$uid = a$uid;

	if ( a?$id )
		{
		n$id = a$id;
		n$identifier = fmt("%s %s %s %s", a$id$orig_h, a$id$resp_h, a$id$resp_p,
		    a$signature);
		}
	else
		n$identifier = fmt("%s %s", a$sensor, a$signature);

	NOTICE(n);
	}
