//! The table `amqp_events`.

crate::request_table! {
    /// One AMQP method with its answer, or one that has none.
    AMQP_EVENTS = "amqp_events": AmqpEvent, AmqpEvents {
        /// When the answer's last byte was seen; without one, the method's first.
        time_,
        /// The kind of frame: 1, a method.
        frame_type: Int [dimension],
        /// The channel in the connection.
        channel: Int,
        /// Class of the method that asks, or that the client tells; 0 where the server tells.
        req_class_id: Int [dimension],
        /// Its number in the class.
        req_method_id: Int [dimension],
        /// Class of the method that answers, or that the server tells; 0 where there is none.
        resp_class_id: Int [dimension],
        /// Its number in the class.
        resp_method_id: Int [dimension],
        /// The first method's arguments as a JSON object, and the size of the message with it as
        /// `body_size`; neither tables nor credentials.
        req_msg: Text [body],
        /// The same of the second.
        resp_msg: Text [body],
        /// Bytes of the first method with its message.
        req_size: ByteCount [measure, context],
        /// Bytes of the second.
        resp_size: ByteCount [measure, context],
        /// 1 where a channel or connection is closed for an error, or a message returned, otherwise
        /// 0.
        failed: Int [dimension, context, outcome],
    }
}
