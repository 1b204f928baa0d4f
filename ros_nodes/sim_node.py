"""sim: a simulated robot in a hidden task, behind the topics of a real one. The only node that knows a simulator.

Subscribes to the robot's controller, and to `goal` (PoseStamped): where the target of the next episode is. Publishes the robot's own state (JointState, or
Odometry and Imu); `seen/...`, what its imperfect sensors make of the rest; `measured/...`, the truth, for whoever judges; `shown/BODY`, where bodies are
while a trajectory is on its way, for films; `robot_description`, latched; /clock; /tf, where tf2_msgs is installed. Offers `~/begin_episode` (Trigger),
whose message is the stamp in ns from which on readings belong to the new episode; `~/reset` (Trigger), which begins it anew whatever has happened;
`~/set_pause` (SetBool); `~/step` (Trigger), `steps` periods while it is paused.
Parameters: task, simulator, split, index, seed; joint_names, command_topic, state_topic; pace; command_timeout (s); steps; and, at any time, dead_joint (an
arm's joint whose motor gives nothing, or none) and each of the task's own, e.g. payload, inside of its limits: the answer and the status say when it holds.
PyBullet takes new masses and shapes with the next episode.

Two paces. lockstep: time passes only while a command is carried out, but every repetition is stamped 1 ns later: it shows that the robot is still
there. A vehicle's command must answer the present readings. realtime: from the first command of an episode on, time passes as on the wall; an arm
does not wait for it for ever, because whoever has died and come back may have missed it. A trajectory is on its way step by step, and whatever comes
meanwhile is heard: a command takes its place, as a stop does. The last command holds; when commands cease, a vehicle is brought to rest and an arm
keeps its last set-point.
"""

from __future__ import annotations

import time
from typing import Any
from xml.etree import ElementTree

import torch
from geometry_msgs.msg import PoseStamped
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Imu
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from torch import Tensor

from metarl import tasks
from metarl.robots.spec import Controls, JointTrajectory, VehicleSpec
from metarl.ros_nodes import messages, readings, runtime
from metarl.ros_nodes.channels import channels
from metarl.ros_nodes.limits import Limits, check_form
from metarl.ros_nodes.rejection import Rejected
from metarl.ros_nodes.transforms import Transforms
from metarl.ros_nodes.wires import ArmWire, VehicleWire, wired
from metarl.ros_nodes.world import World
from metarl.tasks.parameters import Param, TaskBatch
from metarl.tasks.simulators.urdf import robot_urdf
from metarl.tasks.task import Readings

PACES = ("lockstep", "realtime")
OWN_PERIOD, ALL_PERIOD = 0.02, 0.1  # s between repetitions while nothing happens, and in real time where decisions are longer
FRAME, TICK = 40_000_000, 1_000_000  # ns of simulated time: between two frames; from one episode to the next
BEHIND = 0.2  # s that the simulation may lag behind the wall before it gives up catching up
WAIT = 3.0  # s that an arm waits for the first command of an episode in real time; then time passes without it, for it may have been lost


class SimNode:
    """Puts a World behind ROS topics."""

    finished = False

    def __init__(self, node: Node) -> None:
        self.node = node
        torch.set_num_threads(1)
        task = tasks.make(runtime.parameter(node, "task", "arm_slide"))
        split, index = runtime.parameter(node, "split", "iid"), runtime.number(node, "index", 0)
        simulator, seed = runtime.parameter(node, "simulator", "pybullet"), runtime.number(node, "seed", 0)
        self.pace = runtime.parameter(node, "pace", "lockstep")
        if self.pace not in PACES:
            raise ValueError(f"pace is {self.pace!r}, expected {' or '.join(PACES)}")
        self.wire, robot = wired(node, task.robot_name), task.robot
        self.timeout = runtime.number(node, "command_timeout", robot.patience)
        node.declare_parameter("steps", 1)
        self.world = World(task, _given(node, task.params, task.sample(1, split, start=index)), simulator, seed, self._on_frame)
        self._dead_joint(runtime.parameter(node, "dead_joint", "none"))
        self._stamp = self._since = time.time_ns()  # so that it also grows from one start of this node to the next; _since: of the present readings
        self._running = self._paused = self._silent = False
        self._began, self._steps, self._heard = 0.0, 0, 0.0  # s and physics steps since the wall was looked at; s when a command came
        self._still_since = runtime.steady_now()  # s, when this node or the episode began
        self._waiting: Any = None  # a command that came while paused
        self._told: tuple[float, ...] = ()  # a vehicle's last command, and its stamp
        self._answered = 0
        self._filmed = False  # a motion of many points is on its way in lockstep, and shown; a set-point is over with the next readings
        self._goals: Readings = {}  # that are asked for in the next episode
        self._step, self._long = round(task.physics_dt * 1e9), task.decision_dt > ALL_PERIOD  # ns; whether readings at the ends of decisions are too few
        self.status = runtime.Status(node)
        self.transforms = Transforms(node)
        self._publish_description()
        self._channels()
        node.create_subscription(self.wire.command_kind, self.wire.command_topic, self._on_command, runtime.COMMAND)
        node.create_subscription(PoseStamped, "goal", self._on_goal, runtime.COMMAND)
        for name, answer in (("begin_episode", self._on_begin), ("reset", self._on_reset), ("step", self._on_step)):
            node.create_service(Trigger, f"~/{name}", answer)
        node.create_service(SetBool, "~/set_pause", self._on_pause)
        node.add_on_set_parameters_callback(self._on_parameters)
        runtime.steady_timer(node, OWN_PERIOD, self._repeat_own)
        runtime.steady_timer(node, ALL_PERIOD, self._repeat_all)
        if self.pace == "realtime":
            runtime.steady_timer(node, task.physics_dt, self._on_tick)
        self._publish()
        self.status.publish(f"simulating {task.robot_name} in {simulator}, {self.pace}", ready=True)

    # ---- what is published ------------------------------------------------------------------------------------------------

    def _channels(self) -> None:
        """A publisher for each channel of the adapter and of the task node."""
        task, node = self.world.task, self.node
        self._says: dict[str, tuple[Any, str, Any]] = {}  # topic -> channel, source, publisher
        for source, needs in (("seen", readings.needed_to_act(task)), ("measured", readings.needed_to_judge(task))):
            for channel in channels(self.wire, task, needs, source):
                if channel.topic not in self._says:
                    self._says[channel.topic] = channel, source, node.create_publisher(channel.kind, channel.topic, runtime.STREAM)
        self._says = dict(sorted(self._says.items(), key=lambda item: item[0].startswith("seen/")))  # judging comes before deciding
        names = tuple(self.world.engine.read())
        moving = [body for body, parts in readings.bodies(task, names).items() if "pos" in parts]
        self._shown = {body: node.create_publisher(PoseStamped, f"shown/{body}", runtime.STREAM) for body in moving}
        self._clock = node.create_publisher(Clock, "/clock", runtime.STREAM_IN)
        robot = self.wire.robot
        self._imu = (robot.prefix, node.create_publisher(Imu, robot.imu_topic, runtime.STREAM)) if isinstance(robot, VehicleSpec) else None

    def _publish_description(self) -> None:
        text = robot_urdf(self.world.model(), self.wire.robot)
        self._fix_frames(text)
        if isinstance(self.wire, ArmWire):
            for ours, theirs in zip(self.wire.robot.joint_names, self.wire.joint_names, strict=True):
                text = text.replace(f'<joint name="{ours}"', f'<joint name="{theirs}"')
        self._description = self.node.create_publisher(String, "robot_description", runtime.LATCHED)
        self._description.publish(String(data=text))

    def _fix_frames(self, description: str) -> None:
        """What is called a frame in messages is a link of the description as well: of a vehicle its body, else what all hangs on."""
        vehicle = isinstance(self.wire, VehicleWire)
        link = self.wire.robot.name if vehicle else ElementTree.fromstring(description).find("link").get("name")  # type: ignore[union-attr]
        self.transforms.fix(messages.BASE_FRAME if vehicle else self.wire.frame, str(link), self._stamp)

    def _publish(self) -> None:
        """Everything there is to sense, now."""
        for topic in self._says:
            self._say(topic)
        self._tell_time()

    def _say(self, topic: str) -> None:
        channel, source, publisher = self._says[topic]
        found = self.world.seen if source == "seen" else self.world.true
        message = channel.say(found, self._stamp)
        publisher.publish(message)
        if source == "seen":
            self.transforms.tell(message, topic.rpartition("/")[2])
        if self._imu is not None and topic == self.wire.state_topic:
            prefix, imu = self._imu
            imu.publish(messages.imu(found, prefix, self._stamp))

    def _tell_time(self) -> None:
        self._clock.publish(Clock(clock=messages.to_time(self._stamp)))

    def _repeat_own(self) -> None:
        if not self._running:
            self._stamp += 1
            self._say(self.wire.state_topic)

    def _repeat_all(self) -> None:
        if not self._running:
            self._publish()

    def _on_frame(self, qpos: Tensor, qvel: Tensor) -> None:
        """A trajectory is on its way, in lockstep."""
        if self._filmed:
            self._stamp += FRAME
            self._show()

    def _show(self) -> None:
        """What moves, between the ends of two decisions."""
        self._say_moving()
        for body, shown in self._shown.items():
            pose = messages.pose(self.world.moving, body, self._stamp, self.wire.frame)
            shown.publish(pose)
            self.transforms.tell(pose, body)

    def _say_moving(self) -> None:
        channel, _, publisher = self._says[self.wire.state_topic]
        publisher.publish(channel.say(self.world.moving, self._stamp))
        self._tell_time()

    # ---- what is asked for ------------------------------------------------------------------------------------------------

    def _on_begin(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        goals, self._goals = self._goals, {}
        self.world.begin_episode(goals)
        return self._begun(response)

    def _on_goal(self, message: PoseStamped) -> None:
        try:
            target = messages.pose_readings(message, "target", self.wire.frame)["target_pos"]
            readings.check_goal(self.world.task, target)
        except Rejected as rejected:
            self.status.refused(rejected.reason, f"goal: {rejected}")
            return
        self._goals = {"target_pos": target.unsqueeze(0)}

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.world.untouched = False
        self.world.begin_episode()
        return self._begun(response)

    def _begun(self, response: Trigger.Response) -> Trigger.Response:
        self._stamp += TICK
        self._still_since = runtime.steady_now()
        self._since, self._running, self._silent, self._waiting, self._told, self._answered = self._stamp, False, False, None, (), self._stamp - 1
        self._publish()
        response.success, response.message = True, str(self._stamp)
        return response

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._paused = request.data
        response.success, response.message = True, "paused" if self._paused else "going on"
        self._resume_clock()
        if not self._paused and self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self._on_command(waiting)
        return response

    def _on_step(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        steps = self.node.get_parameter("steps").value
        if not self._paused or steps < 1:
            response.message = "pause first" if not self._paused else f"steps is {steps}, expected at least 1"
        elif self.pace == "lockstep" and self._waiting is None:
            response.message = "no command waits: in lockstep a step is a command"
        elif self.pace == "lockstep":
            waiting, self._waiting = self._waiting, None
            self._carry_out(waiting)
            response.success = True
        else:
            for _ in range(steps * self.world.period):
                self._advance()
            response.success = True
        return response

    def _on_parameters(self, parameters: list[Any]) -> SetParametersResult:
        known = {p.name for p in self.world.task.params}
        wanted = {p.name: p.value for p in parameters if p.name in known}
        fixed = [p.name for p in parameters if p.name not in known and p.name not in ("steps", "use_sim_time", "dead_joint")]
        if fixed:
            return SetParametersResult(successful=False, reason=f"{', '.join(fixed)} cannot change while the simulation runs")
        dead = [p.value for p in parameters if p.name == "dead_joint"]
        if not (wanted or dead):
            return SetParametersResult(successful=True)
        try:
            at_once = self.world.change(wanted) if wanted else True
            if dead:
                self._dead_joint(dead[0])
        except (ValueError, TypeError) as error:
            return SetParametersResult(successful=False, reason=str(error))
        told = ", ".join(f"{p.name} = {p.value}" for p in parameters if p.name in (*wanted, "dead_joint"))
        when = "at once" if at_once else "masses and shapes with the next episode, all else at once"
        self.status.publish(f"the hidden task has changed: {told} ({when})")
        return SetParametersResult(successful=True, reason=when)

    def _dead_joint(self, name: str) -> None:
        """The motor of that joint, as messages call it, gives nothing; "none" is none.

        Raises:
            ValueError: no joint of this arm has that name.
        """
        ours = dict(zip(self.wire.joint_names, self.wire.robot.joint_names, strict=True)) if isinstance(self.wire, ArmWire) else {}
        if name not in ("none", *ours):
            raise ValueError(f"dead_joint is {name!r}, expected none{''.join(f', {joint}' for joint in ours)}")
        if name != "none" or self.world.engine.dead_joint:
            self.world.fail(ours.get(name, ""))

    # ---- commands ---------------------------------------------------------------------------------------------------------

    def _on_command(self, message: Any) -> None:
        if self._paused:
            self._waiting = message
            return
        self._carry_out(message)

    def _carry_out(self, message: Any) -> None:
        try:
            command = self.wire.command(message, self._told)
            if isinstance(self.wire, ArmWire):
                check_form(Limits.of(self.wire.robot), command)
            else:
                self._check_stamp(command.stamp)
            decided = self.wire.executable(command)
        except Rejected as rejected:
            self.status.refused(rejected.reason, f"command: {rejected}")
            return
        self._told, self._answered = tuple(command.qpos[-1].tolist()), command.stamp
        if self.pace == "realtime":
            self._heard, self._silent = runtime.steady_now(), False
            if isinstance(decided, JointTrajectory) and len(command.time) > 1:
                self.world.follow(decided)
            else:
                self.world.hold(decided)
            self._run()
            return
        task, begun, duration = self.world.task, self._stamp, float(command.time[-1])
        self._filmed = len(command.time) > 1
        self.world.execute(decided)
        if not self.world.at_rest:  # the simulator has waited as long as the task allows
            duration += task.settle_time
        if task.rests:  # nothing moves in the rest of a decision, so it is over at once
            duration = max(duration, task.decision_dt)
        self._stamp = self._since = max(self._stamp, begun + round(duration * 1e9))
        self._publish()

    def _check_stamp(self, stamp: int) -> None:
        """In lockstep a command answers the present readings; in real time it may be a little late, as on a robot, but never older than the last."""
        if self.pace == "lockstep" and stamp < self._since:
            raise Rejected("out_of_order", f"a command that answers what was seen at {stamp} ns, the present readings are of {self._since} ns")
        if self.pace == "realtime" and stamp <= self._answered:
            raise Rejected("out_of_order", f"a command that answers what was seen at {stamp} ns, after one that answers {self._answered} ns")
        if self._since - stamp > self.timeout * 1e9 and self.pace == "realtime":
            raise Rejected("stale_command", f"a command that answers what was seen {(self._since - stamp) * 1e-9:.3f} s ago, allowed are {self.timeout:.3f} s")

    # ---- time -------------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """From now on time passes."""
        if not self._running:
            self._running = True
            self._resume_clock()

    def _resume_clock(self) -> None:
        self._began, self._steps = runtime.steady_now(), 0

    def _on_tick(self) -> None:
        """Go on to where the wall is."""
        if self._paused:
            return
        if not self._running:
            if isinstance(self.wire, ArmWire) and runtime.steady_now() - self._still_since > WAIT:
                self._run()
            return
        dt = self.world.task.physics_dt
        due = int((runtime.steady_now() - self._began) / dt) - self._steps
        if due * dt > BEHIND:
            self.status.refused("slow", f"the simulation is {due * dt:.2f} s behind the wall, and lets them pass")
            self._resume_clock()
            return
        for _ in range(due):
            self._steps += 1
            self._advance()

    def _advance(self) -> None:
        """One step of physics, and what there is to say after it."""
        over = self.world.advance(1)
        self._stamp += self._step
        if over:
            self._since = self._stamp
            self._publish()
            self._watch()
        elif self._long:
            self._say_between()

    def _say_between(self) -> None:
        """What a robot and its sensors go on saying while a decision is open; whoever judges hears nothing until it is over, as in lockstep."""

        def due(period: float) -> bool:  # ns
            return (self._stamp - self._since) % period < self._step

        if not self.world.under_way and due(ALL_PERIOD * 1e9):
            self.world.look()
            self._publish()
        elif due(OWN_PERIOD * 1e9):
            self.world.glance()
            self._show() if due(FRAME) else self._say_moving()

    def _watch(self) -> None:
        """What a robot's own controller does when commands cease."""
        if not isinstance(self.wire, VehicleWire) or runtime.steady_now() - self._heard <= self.timeout:
            return
        if not self._silent:
            self._silent = True
            self.status.refused("stale_command", f"no command for {self.timeout:.3f} s: the vehicle comes to rest")
        robot, true = self.wire.robot, self.world.true
        w, x, y, z = true[robot.prefix + "quat"][0].tolist()
        climbing = float(true[robot.prefix + "linvel"][0, 2])
        self._told = robot.safe(self._told or robot.rest, (w, x, y, z), climbing, self.world.task.decision_dt)
        self.world.hold(Controls(robot.ctrl_of(torch.tensor([self._told]))))


def _given(node: Node, params: tuple[Param, ...], hidden: TaskBatch) -> TaskBatch:
    """The hidden task, with what this node's parameters say of it otherwise; declares them."""
    said = {}
    for param, number in zip(params, hidden.values[0], strict=True):
        value = param.decode(float(number))
        descriptor = ParameterDescriptor(description=f"of the hidden task, in {param.unit or '1'}")
        if param.choices:
            descriptor.additional_constraints = f"one of {', '.join(param.all_choices)}"
        else:
            low, high = param.allowed
            descriptor.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high))]
        said[param.name] = node.declare_parameter(param.name, value, descriptor).value
    if all(said[p.name] == p.decode(float(v)) for p, v in zip(params, hidden.values[0], strict=True)):
        return hidden
    return tasks.make(hidden.task).custom([said])


def main() -> None:
    """Run the node."""
    runtime.run("sim", SimNode)


if __name__ == "__main__":
    main()
